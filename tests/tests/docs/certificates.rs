//! The certificates that an operator brings to the rehearsal: a CA for the server, one for clients, and those they issue.

use std::fs;
use std::path::Path;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

pub(crate) fn for_the_rehearsal(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let localhost = SanType::DnsName(Ia5String::try_from("localhost").unwrap());
    let server_ca = Ca::new();
    fs::write(dir.join("ca.pem"), &server_ca.pem).unwrap();
    server_ca.issue(dir, "server", localhost, ExtendedKeyUsagePurpose::ServerAuth);
    let clients_ca = Ca::new();
    fs::write(dir.join("clients-ca.pem"), &clients_ca.pem).unwrap();
    for (name, spiffe) in
        [("ann", "spiffe://example.org/operator/ann"), ("shop", "spiffe://example.org/shop")]
    {
        let san = SanType::URI(Ia5String::try_from(spiffe).unwrap());
        clients_ca.issue(dir, name, san, ExtendedKeyUsagePurpose::ClientAuth);
    }
}

struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    fn issue(&self, dir: &Path, name: &str, san: SanType, usage: ExtendedKeyUsagePurpose) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![san];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        let path = dir.join(format!("{name}.key"));
        fs::write(&path, key.serialize_pem()).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
}
