DECLARE
  found oid;
  left_over text;
BEGIN
  IF (grp ~ '^@prefix@g__[0-9a-f]{32}$') IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a group of this vault';
  END IF;
  LOCK TABLE @schema@.turn IN EXCLUSIVE MODE;
  SELECT oid INTO found FROM pg_roles WHERE rolname = grp;
  IF found IS NULL THEN
    RETURN false;
  END IF;
  IF EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles l ON l.oid = m.member
             WHERE m.roleid = found AND l.rolname <> current_user) THEN
    RAISE EXCEPTION USING ERRCODE = 'KS005', MESSAGE = 'the group still has members';
  END IF;
  IF EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = found AND deptype = 'o'
             AND (classid NOT IN ('pg_largeobject'::regclass, 'pg_default_acl'::regclass)
                  OR dbid <> (SELECT oid FROM pg_database WHERE datname = current_database()))) THEN
    RAISE EXCEPTION USING ERRCODE = 'KS005',
      MESSAGE = format('group %I owns objects; reassign or drop them first', grp);
  END IF;
  EXECUTE format('GRANT %I TO %I', grp, current_user);
  BEGIN
    EXECUTE format('DROP OWNED BY %I', grp);
  EXCEPTION WHEN insufficient_privilege THEN
    -- What others gave it is not ours to take away; it is named below.
    NULL;
  END;
  SELECT string_agg(CASE WHEN d.datname = current_database() OR d.oid IS NULL THEN pg_describe_object(s.classid, s.objid, s.objsubid)
                         ELSE 'something in database ' || quote_ident(d.datname) END, ', ') INTO left_over
    FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid
    WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = found;
  IF left_over IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'KS005', MESSAGE = format(
      'the group has rights that others gave it on %s; run DROP OWNED BY %I there as a superuser', left_over, grp);
  END IF;
  EXECUTE format('DROP ROLE %I', grp);
  RETURN true;
END
