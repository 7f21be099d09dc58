DECLARE
  allowed text[] := CASE kind
    WHEN 'table' THEN ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']
    WHEN 'column' THEN ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']
    WHEN 'sequence' THEN ARRAY['USAGE', 'SELECT', 'UPDATE']
    WHEN 'routine' THEN ARRAY['EXECUTE']
    WHEN 'schema' THEN ARRAY['USAGE']
    WHEN 'database' THEN ARRAY['CONNECT']
  END;
  words text := array_to_string(privileges, ', ');
  place text;
  target text;
  statement text;
  tries integer := 0;
BEGIN
  IF (grp ~ '^@prefix@g__[0-9a-f]{32}$') IS NOT TRUE
     OR NOT EXISTS (SELECT FROM pg_roles WHERE rolname = grp AND NOT rolcanlogin) THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a group of this vault';
  END IF;
  IF (privileges <@ allowed AND cardinality(privileges) > 0) IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'no such privilege on this kind of object';
  END IF;
  -- The functions themselves are the admin login's alone.
  IF schema_name = '@schema@' THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'nothing is granted in the schema of the vault';
  END IF;
  IF kind IN ('table', 'column', 'sequence') THEN
    SELECT format('%s %I.%I', CASE kind WHEN 'sequence' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname)
      INTO target FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = schema_name AND c.relname = object_name
        AND (c.relkind = 'S') = (kind = 'sequence') AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S');
  ELSIF kind = 'routine' THEN
    SELECT format('ROUTINE %I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
      INTO target FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname = schema_name AND p.proname = object_name AND oidvectortypes(p.proargtypes) = parts[1];
  ELSIF kind = 'schema' THEN
    target := format('SCHEMA %I', schema_name);
  ELSE
    target := format('DATABASE %I', current_database());
  END IF;
  IF target IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'KS002', MESSAGE = format('there is no such %s', kind);
  END IF;
  IF kind = 'column' THEN
    SELECT string_agg(quote_ident(part), ', ') INTO place FROM unnest(parts) AS list (part);
    SELECT string_agg(format('%s (%s)', word, place), ', ') INTO words FROM unnest(privileges) AS list (word);
  END IF;
  statement := format('%s %s ON %s %s %I', CASE WHEN take_away THEN 'REVOKE' ELSE 'GRANT' END, words, target,
                      CASE WHEN take_away THEN 'FROM' ELSE 'TO' END, grp);
  LOOP
    BEGIN
      EXECUTE statement;
      RETURN statement;
    EXCEPTION WHEN internal_error THEN
      -- Somebody else granted on the same object at the same time; the server says so in its own language.
      tries := tries + 1;
      IF tries > 3 THEN
        RAISE;
      END IF;
    END;
  END LOOP;
END
