WITH me AS (SELECT oid FROM pg_roles WHERE rolname = $1),
who AS (SELECT oid FROM me UNION ALL SELECT 0::oid),
here AS (SELECT oid FROM pg_database WHERE datname = current_database()),
-- Everybody can make large objects, default privileges and, where that is accepted, temporary tables, and share them: what
-- logins of the vault and their groups have of these gives nothing that is the database's, and must not stop others' logins.
makers AS (SELECT oid FROM pg_roles WHERE starts_with(rolname::text, $3)),
-- What initdb gave to everybody is not a finding; what an extension gave is.
born AS (SELECT i.classoid, i.objoid, i.objsubid, i.privtype, e.privilege_type
         FROM pg_init_privs i, aclexplode(i.initprivs) e WHERE e.grantee = 0),
entries AS (
  -- The columns are text, or UNION would cut them to the length of a name.
  SELECT 'pg_class'::regclass AS class, c.oid AS object, 0 AS part,
         CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END AS kind,
         n.nspname::text AS schema, c.relname::text AS name, ''::text AS detail, a.*
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
    WHERE c.relacl IS NOT NULL AND n.nspname !~ '^pg_(toast_)?temp_'
  UNION ALL
  SELECT 'pg_class'::regclass, c.oid, t.attnum, 'column', n.nspname, c.relname, t.attname::text, a.*
    FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
         aclexplode(t.attacl) a
    WHERE t.attacl IS NOT NULL AND NOT t.attisdropped AND n.nspname !~ '^pg_(toast_)?temp_'
  UNION ALL
  -- Whoever may execute a function has its owner's rights only if it is SECURITY DEFINER, or was closed by those who made it.
  SELECT 'pg_proc'::regclass, p.oid, 0, 'routine', n.nspname, p.proname, oidvectortypes(p.proargtypes), a.*
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace,
         aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    WHERE (p.proacl IS NOT NULL OR p.prosecdef) AND n.nspname !~ '^pg_temp_'
      AND (a.grantee <> 0
           OR EXISTS (SELECT FROM pg_init_privs i WHERE i.classoid = 'pg_proc'::regclass AND i.objoid = p.oid)
           OR (p.prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema')))
  UNION ALL
  SELECT 'pg_namespace'::regclass, n.oid, 0, 'schema', n.nspname, '', '', a.*
    FROM pg_namespace n, aclexplode(n.nspacl) a
  UNION ALL
  SELECT 'pg_database'::regclass, d.oid, 0, 'database', '', d.datname, '', a.*
    FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE d.datallowconn
  UNION ALL
  SELECT 'pg_language'::regclass, l.oid, 0, 'language', '', l.lanname, '', a.*
    FROM pg_language l, aclexplode(l.lanacl) a WHERE a.grantee <> 0
  UNION ALL
  SELECT 'pg_type'::regclass, t.oid, 0, 'type', n.nspname, t.typname, '', a.*
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace, aclexplode(t.typacl) a
    WHERE a.grantee <> 0 AND n.nspname !~ '^pg_temp_'
  UNION ALL
  SELECT 'pg_foreign_data_wrapper'::regclass, f.oid, 0, 'foreign data wrapper', '', f.fdwname, '', a.*
    FROM pg_foreign_data_wrapper f, aclexplode(f.fdwacl) a
  UNION ALL
  SELECT 'pg_foreign_server'::regclass, f.oid, 0, 'foreign server', '', f.srvname, '', a.*
    FROM pg_foreign_server f, aclexplode(f.srvacl) a
  UNION ALL
  SELECT 'pg_tablespace'::regclass, t.oid, 0, 'tablespace', '', t.spcname, '', a.*
    FROM pg_tablespace t, aclexplode(t.spcacl) a
  UNION ALL
  SELECT 'pg_largeobject'::regclass, l.oid, 0, 'large object', '', l.oid::text, '', a.*
    FROM pg_largeobject_metadata l, aclexplode(l.lomacl) a WHERE l.lomowner NOT IN (SELECT oid FROM makers)
  UNION ALL
  SELECT 'pg_parameter_acl'::regclass, p.oid, 0, 'parameter', '', p.parname, '', a.*
    FROM pg_parameter_acl p, aclexplode(p.paracl) a
  UNION ALL
  SELECT 'pg_default_acl'::regclass, d.oid, 0, 'future ' || CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences'
           WHEN 'f' THEN 'routines' WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas' ELSE d.defaclobjtype::text END,
         coalesce(n.nspname, ''), pg_get_userbyid(d.defaclrole), '', a.*
    FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
    WHERE (a.grantee <> 0 OR d.defaclobjtype NOT IN ('f', 'T')) AND d.defaclrole NOT IN (SELECT oid FROM makers)
)
SELECT kind, schema, name, detail, privilege_type AS privilege, is_grantable AS grantable, grantee = 0 AS everybody,
       pg_has_role($2::name, grantor, 'USAGE') AS ours
  FROM entries
  WHERE grantee IN (SELECT oid FROM who)
    AND (grantee <> 0 OR NOT EXISTS (
      SELECT FROM born b WHERE b.classoid = class AND b.objoid = object AND b.objsubid = part
        AND b.privilege_type = entries.privilege_type AND b.privtype = 'i'))
    -- initdb makes the information schema after it has noted what it gave: its own objects have low numbers.
    AND (grantee <> 0 OR schema <> 'information_schema' OR object >= 16384
         OR privilege_type NOT IN ('SELECT', 'USAGE'))
UNION ALL
SELECT 'object', '', pg_describe_object(s.classid, s.objid, 0), '', 'OWNER', false, false, false
  FROM pg_shdepend s, me, here
  WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = me.oid AND s.deptype = 'o' AND s.dbid IN (0, here.oid)
    AND s.classid NOT IN ('pg_largeobject'::regclass, 'pg_default_acl'::regclass)
    AND coalesce((pg_identify_object(s.classid, s.objid, 0)).schema, '') !~ '^pg_(toast_)?temp(_|$)'
UNION ALL
SELECT DISTINCT 'elsewhere', '', d.datname::text, '', 'ANY', false, false, false
  FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid, me, here
  WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = me.oid AND s.dbid <> here.oid
    AND s.classid NOT IN ('pg_largeobject'::regclass, 'pg_default_acl'::regclass)
UNION ALL
SELECT 'role', '', g.rolname::text, '', 'MEMBER', m.admin_option, false, false
  FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid, me WHERE m.member = me.oid
UNION ALL
SELECT 'role', '', r.rolname::text, '', flag.word, false, false, false
  FROM pg_roles r JOIN me ON me.oid = r.oid,
       LATERAL (VALUES ('LOGIN', r.rolcanlogin), ('SUPERUSER', r.rolsuper), ('CREATEROLE', r.rolcreaterole),
         ('CREATEDB', r.rolcreatedb), ('REPLICATION', r.rolreplication), ('BYPASSRLS', r.rolbypassrls)) AS flag (word, there)
  WHERE flag.there
UNION ALL
-- Such a transaction outlives its session, and what it has locked: also the login itself, which cannot be removed then.
SELECT 'setting', '', 'max_prepared_transactions', '', 'PREPARE TRANSACTION', false, true, false
  WHERE current_setting('max_prepared_transactions')::integer > 0
