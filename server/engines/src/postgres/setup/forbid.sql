BEGIN
  IF (login ~ '^@prefix@[a-z0-9-]{1,18}_[0-9a-f]{32}$') IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a login of this vault';
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login) THEN
    RETURN false;
  END IF;
  EXECUTE format('ALTER ROLE %I WITH NOLOGIN PASSWORD NULL VALID UNTIL ''epoch''', login);
  RETURN true;
END
