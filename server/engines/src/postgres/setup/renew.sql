DECLARE
  -- By this server's clock, which is the one that ends the login.
  until text := to_char((clock_timestamp() + lasts_ms * interval '1 millisecond') AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS"+00"');
BEGIN
  IF (login ~ '^@prefix@[a-z0-9-]{1,18}_[0-9a-f]{32}$') IS NOT TRUE OR until IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a login of this vault';
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login AND rolcanlogin) THEN
    RAISE EXCEPTION USING ERRCODE = 'KS002', MESSAGE = 'the login is not there, or was forbidden';
  END IF;
  -- A session of the login may have its entry locked: the connection is others' too.
  PERFORM set_config('lock_timeout', '500ms', true);
  EXECUTE format('ALTER ROLE %I VALID UNTIL %L', login, until);
END
