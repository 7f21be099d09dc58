DECLARE
  found oid;
  open boolean;
  tries integer := 0;
  elsewhere text;
BEGIN
  IF (login ~ '^@prefix@[a-z0-9-]{1,18}_[0-9a-f]{32}$') IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a login of this vault';
  END IF;
  SELECT oid, rolcanlogin INTO found, open FROM pg_roles WHERE rolname = login;
  IF found IS NULL THEN
    RETURN;
  END IF;
  -- Committed before this call: who comes now is refused, so the sessions ended below are the last.
  IF open THEN
    RAISE EXCEPTION USING ERRCODE = 'KS003', MESSAGE = 'the login may still log in';
  END IF;
  LOOP
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = found;
    PERFORM pg_stat_clear_snapshot();
    -- A session leaves the list when its transaction is undone and its temporary tables are gone.
    EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE usesysid = found);
    tries := tries + 1;
    IF tries > 500 THEN
      RAISE EXCEPTION USING ERRCODE = 'KS003', MESSAGE = 'a session of the login does not end';
    END IF;
    PERFORM pg_sleep(0.01);
    PERFORM pg_stat_clear_snapshot();
  END LOOP;
  SELECT string_agg(DISTINCT quote_ident(d.datname), ', ') INTO elsewhere
    FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid
    WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = found AND d.datname <> current_database();
  IF elsewhere IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'KS004',
      MESSAGE = format('the login owns objects or has rights of its own in database %s; reassign or drop them there', elsewhere);
  END IF;
  IF EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = found) THEN
    EXECUTE format('GRANT %I TO %I', login, current_user);
    IF reassign THEN
      IF (grp ~ '^@prefix@g__[0-9a-f]{32}$') IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a group of this vault';
      END IF;
      EXECUTE format('GRANT %I TO %I', grp, current_user);
      EXECUTE format('REASSIGN OWNED BY %I TO %I', login, grp);
      EXECUTE format('REVOKE %I FROM %I', grp, current_user);
    END IF;
    BEGIN
      EXECUTE format('DROP OWNED BY %I', login);
    EXCEPTION WHEN insufficient_privilege THEN
      -- What others gave it is not ours to take away; it is named below.
      NULL;
    END;
    SELECT string_agg(pg_describe_object(classid, objid, objsubid), ', ') INTO elsewhere
      FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = found;
    IF elsewhere IS NOT NULL THEN
      RAISE EXCEPTION USING ERRCODE = 'KS004', MESSAGE = format(
        'the login has rights that others gave it on %s; run DROP OWNED BY %I there as a superuser', elsewhere, login);
    END IF;
  END IF;
  EXECUTE format('DROP ROLE %I', login);
  -- Whoever was between the check of the password and the list of sessions shows by now.
  PERFORM pg_stat_clear_snapshot();
  IF EXISTS (SELECT FROM pg_stat_activity WHERE usesysid = found) THEN
    RAISE EXCEPTION USING ERRCODE = 'KS003', MESSAGE = 'a session of the login came late';
  END IF;
END
