DECLARE
  found oid;
  tries integer := 0;
  prepared text;
BEGIN
  IF (login ~ '^@prefix@[a-z0-9-]{1,18}_[0-9a-f]{32}$') IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a login of this vault';
  END IF;
  SELECT oid INTO found FROM pg_roles WHERE rolname = login;
  IF found IS NULL THEN
    RETURN false;
  END IF;
  -- A login may change its own password, and has its entry locked until that transaction ends: it is not waited for. A SET
  -- clause would count as another function.
  PERFORM set_config('lock_timeout', '100ms', true);
  LOOP
    BEGIN
      EXECUTE format('ALTER ROLE %I WITH NOLOGIN PASSWORD NULL VALID UNTIL ''epoch''', login);
      RETURN true;
    EXCEPTION WHEN lock_not_available OR deadlock_detected OR internal_error THEN
      -- The last is how the server says that the entry was changed meanwhile.
      tries := tries + 1;
      IF tries > 20 THEN
        SELECT min(gid) INTO prepared FROM pg_prepared_xacts WHERE owner = login;
        RAISE EXCEPTION USING ERRCODE = 'KS003', MESSAGE = CASE WHEN prepared IS NULL
          THEN 'the entry of the login is locked by a session that does not end'
          ELSE format('the entry of the login is locked by a prepared transaction; run ROLLBACK PREPARED %L as a superuser', prepared) END;
      END IF;
      PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = found;
      PERFORM pg_stat_clear_snapshot();
    END;
  END LOOP;
END
