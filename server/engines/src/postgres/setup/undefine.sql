DECLARE
  found oid;
BEGIN
  IF (grp ~ '^@prefix@g__[0-9a-f]{32}$') IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a group of this vault';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('@schema@', 0));
  SELECT oid INTO found FROM pg_roles WHERE rolname = grp;
  IF found IS NULL THEN
    RETURN false;
  END IF;
  IF EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles l ON l.oid = m.member
             WHERE m.roleid = found AND l.rolname <> current_user) THEN
    RAISE EXCEPTION USING ERRCODE = 'KS005', MESSAGE = 'the group still has members';
  END IF;
  IF EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = found AND deptype = 'o') THEN
    RAISE EXCEPTION USING ERRCODE = 'KS005',
      MESSAGE = format('group %I owns objects; reassign or drop them first', grp);
  END IF;
  EXECUTE format('GRANT %I TO %I', grp, current_user);
  EXECUTE format('DROP OWNED BY %I', grp);
  EXECUTE format('DROP ROLE %I', grp);
  RETURN true;
END
