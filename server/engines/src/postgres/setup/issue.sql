DECLARE
  -- By this server's clock, which is the one that ends the login.
  until text := to_char((clock_timestamp() + lasts_ms * interval '1 millisecond') AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS"+00"');
  places text;
BEGIN
  IF (login ~ '^@prefix@[a-z0-9-]{1,18}_[0-9a-f]{32}$') IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a login of this vault';
  END IF;
  IF (grp ~ '^@prefix@g__[0-9a-f]{32}$') IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a group of this vault';
  END IF;
  IF (verifier ~ '^SCRAM-SHA-256\$[0-9]{4,6}:[A-Za-z0-9+/=]{16,64}\$[A-Za-z0-9+/=]{44}:[A-Za-z0-9+/=]{44}$') IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a SCRAM-SHA-256 verifier';
  END IF;
  IF until IS NULL OR connections IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'a login has an end and a number of connections';
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = grp AND NOT rolcanlogin) THEN
    RAISE EXCEPTION USING ERRCODE = 'KS002', MESSAGE = 'the group of the role is not there';
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = login) THEN
    -- A session of the login may have its entry locked: the connection is others' too.
    PERFORM set_config('lock_timeout', '500ms', true);
    EXECUTE format('ALTER ROLE %I WITH LOGIN PASSWORD %L VALID UNTIL %L CONNECTION LIMIT %s',
                   login, verifier, until, connections);
    EXECUTE format('ALTER ROLE %I RESET ALL', login);
  ELSE
    EXECUTE format('CREATE ROLE %I WITH LOGIN INHERIT PASSWORD %L VALID UNTIL %L CONNECTION LIMIT %s',
                   login, verifier, until, connections);
  END IF;
  -- From 16 on a member can be kept from becoming the group itself.
  IF current_setting('server_version_num')::integer >= 160000 THEN
    EXECUTE format('GRANT %I TO %I WITH INHERIT TRUE, SET FALSE', grp, login);
  ELSIF NOT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles l ON l.oid = m.member
                    WHERE g.rolname = grp AND l.rolname = login) THEN
    EXECUTE format('GRANT %I TO %I', grp, login);
  END IF;
  IF cardinality(path) > 0 THEN
    SELECT string_agg(quote_ident(place), ', ' ORDER BY position)
      INTO places FROM unnest(path) WITH ORDINALITY AS part (place, position);
    EXECUTE format('ALTER ROLE %I SET search_path TO %s', login, places);
  END IF;
  IF timeout_s IS NOT NULL THEN
    EXECUTE format('ALTER ROLE %I SET statement_timeout TO %L', login, timeout_s || 's');
  END IF;
END
