BEGIN
  IF (verifier ~ '^SCRAM-SHA-256\$[0-9]{4,6}:[A-Za-z0-9+/=]{16,64}\$[A-Za-z0-9+/=]{44}:[A-Za-z0-9+/=]{44}$') IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'KS001', MESSAGE = 'this is not a SCRAM-SHA-256 verifier';
  END IF;
  EXECUTE format('ALTER ROLE %I PASSWORD %L', current_user, verifier);
END
