BEGIN
  IF (grp ~ '^@prefix@g__[0-9a-f]{32}$') IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a group of this vault';
  END IF;
  -- Two transactions that grant on one table at a time fail. An advisory lock would be anybody's to take.
  LOCK TABLE @schema@.turn IN EXCLUSIVE MODE;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = grp) THEN
    RETURN false;
  END IF;
  EXECUTE format('CREATE ROLE %I WITH NOLOGIN', grp);
  RETURN true;
END
