//! The story: what is done, what is shown of it, and what must hold for it to go on.
//!
//! Invariant: what is ticked off was checked just before.

use anyhow::{Context, Result, bail, ensure};
use keystead_client::{Client, ConnectCause, Error, v1};
use keystead_tests::{Identity, children_of};
use rustls::ProtocolVersion;

use crate::forgery::{forged, mistyped};
use crate::stage::{OPERATOR, Ran, Stage};
use crate::teller::{Teller, shortened};

/// The exit code of the CLI when the server said no, and when it failed by itself.
const REFUSED: i32 = 2;
const LOCAL: i32 = 1;

/// Tells it.
pub(crate) async fn tell(stage: &mut Stage, teller: &mut Teller) -> Result<()> {
    teller.title("Keystead: secrets that open only with an HSM and a quorum of people")?;
    teller.say(&format!("Everything below is real and happens in {}.", stage.dir().display()))?;
    token(stage, teller)?;
    server(stage, teller).await?;
    let alice = stage.pki().client(OPERATOR);
    init(stage, teller)?;
    sealed(stage, teller, &alice)?;
    wrong_shares(stage, teller).await?;
    unseal(stage, teller, [2, 4, 5])?;
    let cast = Cast::introduce(stage, teller, alice)?;
    own_secret(&cast, teller).await?;
    others_secret(&cast, teller).await?;
    at_rest(stage, teller, &cast)?;
    seal(stage, teller, &cast).await?;
    trail(stage, teller, &cast).await?;
    end(stage, teller).await
}

fn token(stage: &Stage, teller: &mut Teller) -> Result<()> {
    teller.step("A token that plays the HSM")?;
    let token = stage.token();
    teller.say(&format!("SoftHSM keeps it in {}, under a random PIN.", token.tokens.display()))?;
    let made = std::fs::read_dir(&token.tokens)?.count();
    ensure!(made == 1, "SoftHSM made {made} tokens");
    teller.holds("The token is there. The server will speak PKCS#11 to it, as to a real HSM.")
}

async fn server(stage: &mut Stage, teller: &mut Teller) -> Result<()> {
    teller.step("A server, in a process of its own")?;
    teller.command("keystead-server --config keystead.toml")?;
    let address = stage.start().await?;
    teller.say(&format!("It listens on {address}, as process {}.", stage.server_id()?))?;
    let version = stage.tls_version().await?;
    ensure!(version == ProtocolVersion::TLSv1_3, "the server agreed on {version:?}");
    teller.holds("The handshake agrees on TLS 1.3.")?;
    let stranger = stage.pki().stranger(OPERATOR);
    let refused =
        stage.client()?.identity_files(&stranger.cert, &stranger.key).build_lazy()?.system().status().await;
    match refused {
        Err(Error::Connect { cause: ConnectCause::ClientCertificate { .. }, .. }) => teller
            .holds("A certificate with the operator's name, but of another CA, is refused in the handshake."),
        other => bail!("a certificate of an unknown CA was not refused: {other:?}"),
    }
}

fn init(stage: &Stage, teller: &mut Teller) -> Result<()> {
    teller.step("A new vault: 5 shares, of which any 3 open it")?;
    teller
        .say("On the server's own host, over its local socket. The token's PIN comes from standard input.")?;
    let operator = format!("alice={OPERATOR}");
    #[rustfmt::skip]
    let arguments = [
        "init", "--shares", "5", "--threshold", "3", "--operator", &operator, "--pin-file", "-",
        "--out-dir", "shares", "--accept-total-loss",
    ];
    teller.command(&format!("keystead {}", arguments.join(" ")))?;
    let ran = stage.local_cli(&arguments, &stage.token().pin)?;
    succeeded(&ran)?;
    for number in 1..=5 {
        teller.answer(&format!("share {number}: {}", shortened(&share(stage, number)?)))?;
    }
    teller.say("The master key was made inside the token, to stay there. Each share goes to one person.")?;
    let ran = stage.local_cli(&["status"], "")?;
    succeeded(&ran)?;
    ensure!(ran.stdout.contains("sealed") && ran.stdout.contains("3 of 5"), "it is not: {}", ran.stdout);
    teller.holds("The vault exists, sealed.")
}

fn sealed(stage: &Stage, teller: &mut Teller, alice: &Identity) -> Result<()> {
    teller.step("Until three of them come together, nobody gets anything")?;
    teller.command("keystead secret get shop/db")?;
    let ran = stage.cli(alice, &["secret", "get", "shop/db"], "")?;
    teller.answer(&ran.shown())?;
    refused(&ran, REFUSED, "sealed")?;
    teller.holds("Not even Alice, the operator: the token and the disk together open nothing.")
}

async fn wrong_shares(stage: &Stage, teller: &mut Teller) -> Result<()> {
    teller.step("Wrong shares are named as wrong when they are entered")?;
    let right = share(stage, 2)?;
    std::fs::write(stage.path("mistyped.txt"), mistyped(&right).context("the share has no letters")?)?;
    teller.say("Share 2 with one character mistyped:")?;
    teller.command("keystead unseal --share-file mistyped.txt")?;
    let ran = stage.local_cli(&["unseal", "--share-file", "mistyped.txt"], "")?;
    teller.answer(&ran.shown())?;
    refused(&ran, LOCAL, "typing error")?;

    teller.say(
        "A forged share 2: right vault, right epoch, right number, right checksum, other secret bytes:",
    )?;
    let forged = forged(&local(stage)?).await?;
    std::fs::write(stage.path("forged.txt"), forged.expose())?;
    teller.command("keystead unseal --share-file forged.txt")?;
    let ran = stage.local_cli(&["unseal", "--share-file", "forged.txt"], "")?;
    teller.answer(&ran.shown())?;
    refused(&ran, LOCAL, "not the one that was handed out")?;

    let sent = local(stage)?.system().submit_share(&forged, "").await;
    let error = sent.err().context("the server took a forged share")?;
    ensure!(error.reason() == "SHARE_WRONG", "the server refused a forged share as {:?}", error.reason());
    teller.say("The same, past the CLI, straight to the server:")?;
    teller.answer(&format!("{}: {error}", error.reason()))?;
    teller.holds(
        "A mistake is told apart from a forgery, at once and by name, and costs the right shares nothing.",
    )
}

fn unseal(stage: &Stage, teller: &mut Teller, holders: [u32; 3]) -> Result<()> {
    let [first, second, last] = holders;
    teller.step(&format!("Holders {first}, {second} and {last} enter their shares"))?;
    enter(stage, teller, holders)?;
    teller.holds("Two shares were not enough, the third was.")
}

fn enter(stage: &Stage, teller: &Teller, holders: [u32; 3]) -> Result<()> {
    for (entered, number) in (1..).zip(holders) {
        let file = format!("shares/share-{number}.txt");
        teller.command(&format!("keystead unseal --share-file {file}"))?;
        let ran = stage.local_cli(&["unseal", "--share-file", &file], "")?;
        succeeded(&ran)?;
        let expected =
            if entered == 3 { "The vault is unsealed." } else { &format!("{entered} of 3 shares") };
        let line = ran.stdout.lines().find(|line| line.contains(expected));
        // What follows names the ceremony and its end, which is for scripts.
        let line = line.and_then(|line| line.split(", until").next());
        teller.answer(line.with_context(|| format!("{expected:?} was not said: {}", ran.shown()))?)?;
    }
    Ok(())
}

/// Who plays, once there is a vault to play in.
struct Cast {
    alice: Identity,
    shop: Client,
    password: String,
    card_key: String,
}

impl Cast {
    fn introduce(stage: &Stage, teller: &mut Teller, alice: Identity) -> Result<Self> {
        teller.step("Alice registers two services, says what they may do, and writes their secrets")?;
        let (password, card_key) = (made_up("demo-password")?, made_up("demo-card-key")?);
        for service in ["shop", "billing"] {
            let (name, spiffe) = (format!("service/{service}"), spiffe(service));
            run(stage, teller, &alice, &["principal", "put", &name, "--spiffe", &spiffe], "")?;
            let (policy, file) = (policy(service), format!("{service}.cedar"));
            std::fs::write(stage.path(&file), &policy)?;
            if service == "shop" {
                teller.say(&format!("{file}:"))?;
                teller.answer(&policy)?;
            }
            run(stage, teller, &alice, &["policy", "put", service, "--file", &file], "")?;
        }
        teller.say("Values come from standard input, never from an argument:")?;
        run(stage, teller, &alice, &["secret", "put", "shop/db", "--stdin", "password"], &password)?;
        run(stage, teller, &alice, &["secret", "put", "billing/cards", "--stdin", "key"], &card_key)?;
        teller.holds("Stored: each value under a key of its own, wrapped by the HSM.")?;
        let certificate = stage.pki().client(&spiffe("shop"));
        let shop = stage.client()?.identity_files(&certificate.cert, &certificate.key).build_lazy()?;
        Ok(Self { alice, shop, password, card_key })
    }
}

async fn own_secret(cast: &Cast, teller: &mut Teller) -> Result<()> {
    teller.step("The service \"shop\" reads its own secret, with the Rust client and its own certificate")?;
    let caller = cast.shop.auth().who_am_i().await?;
    teller.say("let secret = vault.secrets().get(\"shop/db\").await?;")?;
    let secret = cast.shop.secrets().get("shop/db").await?;
    let found = secret.field("password")?.expose_str().context("the password is not text")?.to_owned();
    teller.answer(&format!("password = {found}   (version {})", secret.version.version))?;
    ensure!(found == cast.password, "that is not what Alice wrote");
    teller.holds(&format!(
        "The server knew it as {} by its certificate alone: no token, no login.",
        caller.principal
    ))
}

async fn others_secret(cast: &Cast, teller: &mut Teller) -> Result<()> {
    teller.step("It asks for the secret of \"billing\", and for one that does not exist")?;
    let mut answers = Vec::new();
    for path in ["billing/cards", "billing/nothing-here"] {
        teller.say(&format!("vault.secrets().get(\"{path}\").await"))?;
        match cast.shop.secrets().get(path).await {
            Err(Error::NotFoundOrDenied(refusal)) => {
                teller.answer(&refusal.to_string())?;
                answers.push((refusal.code, refusal.reason.clone()));
            }
            Err(other) => return Err(other).context("a refusal of another kind"),
            Ok(_) => bail!("the service read {path}"),
        }
    }
    ensure!(answers.first() == answers.last(), "the two refusals differ: {answers:?}");
    teller.holds("Refused, and the same way: a refusal does not tell what exists.")
}

fn at_rest(stage: &Stage, teller: &mut Teller, cast: &Cast) -> Result<()> {
    teller.step("What lies on the disk")?;
    let mut files = Vec::new();
    collect(&stage.path("data"), &mut files)?;
    let mut bytes = 0;
    for file in &files {
        let content = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        bytes += content.len();
        for needle in [cast.password.as_str(), cast.card_key.as_str(), "billing", "cards"] {
            let found = content.windows(needle.len()).any(|window| window == needle.as_bytes());
            ensure!(!found, "{} holds {needle:?} in the clear", file.display());
        }
    }
    ensure!(bytes > 0, "the server wrote nothing");
    teller.holds(&format!(
        "In {} files ({} KiB: store, write-ahead log, audit log) no value is readable, and no name either.",
        files.len(),
        bytes / 1024
    ))
}

async fn seal(stage: &Stage, teller: &mut Teller, cast: &Cast) -> Result<()> {
    teller.step("Alice seals the vault")?;
    run(stage, teller, &cast.alice, &["seal"], "")?;
    teller.say("The service reads its own secret once more:")?;
    match cast.shop.secrets().get("shop/db").await {
        Err(Error::Sealed(refusal)) => teller.answer(&refusal.to_string())?,
        other => bail!("a read of a sealed vault was answered with {other:?}"),
    }
    teller.holds("What was open a moment ago is closed, also for who could read it.")
}

async fn trail(stage: &Stage, teller: &mut Teller, cast: &Cast) -> Result<()> {
    teller.step("Any three open it again, and Alice reads the audit trail of all that")?;
    enter(stage, teller, [1, 3, 5])?;
    teller.command("keystead audit tail")?;
    let client = stage.client()?.identity_files(&cast.alice.cert, &cast.alice.key).build().await?;
    let mut tail = client.audit().tail(1000, false).await?;
    let mut entries = Vec::new();
    while let Some(entry) = tail.next().await? {
        entries.push(entry);
    }
    for entry in &entries {
        teller.answer(&line(entry))?;
    }
    let has = |kind: &str, principal: &str, action: &str, resource: &str, outcome: &str| {
        entries.iter().any(|entry| {
            (entry.kind.as_str(), entry.principal.as_str(), entry.action.as_str())
                == (kind, principal, action)
                && entry.resource == resource
                && entry.outcome == outcome
        })
    };
    for (kind, principal, action, resource, outcome) in [
        ("refused", "", "system:unseal", "system", "SHARE_WRONG"),
        ("system", "", "system:unseal", "system", "ok"),
        ("outcome", "operator/alice", "secrets:write", "secret/shop/db", "ok"),
        ("read", "service/shop", "secrets:read", "secret/shop/db", "ok"),
        ("refused", "service/shop", "secrets:read", "secret/billing/cards", "DENIED"),
        ("outcome", "operator/alice", "system:seal", "system", "ok"),
    ] {
        ensure!(
            has(kind, principal, action, resource, outcome),
            "the trail has no entry {kind} {principal} {action} {resource} {outcome}"
        );
    }
    let text = format!("{entries:?}");
    for value in [&cast.password, &cast.card_key] {
        ensure!(!text.contains(value.as_str()), "the trail holds a secret value");
    }
    teller.holds(
        "Who did what, allowed or refused, changes before and after; never a value. Calls to a sealed vault\n\
         are counted, not recorded, so that nobody can fill the disk from outside.",
    )
}

async fn end(stage: &mut Stage, teller: &mut Teller) -> Result<()> {
    teller.step("The end")?;
    let mut processes = children_of(stage.server_id()?)?;
    ensure!(!processes.is_empty(), "the server runs no process for the HSM");
    processes.push(stage.server_id()?);
    teller.say("SIGTERM: the server drains, seals, wipes and ends.")?;
    let status = stage.stop().await?;
    ensure!(status.success(), "the server ended with {status}");
    for process in processes {
        stage.gone(process).await?;
    }
    let dir = stage.dir().to_owned();
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    teller.holds("No process is left, and the directory is removed.")?;
    teller.title("\nNext: `make dev` leaves such a server running for you; `make test` runs the tests.")
}

/// Runs a command of an operator that must succeed.
fn run(stage: &Stage, teller: &Teller, caller: &Identity, arguments: &[&str], stdin: &str) -> Result<()> {
    teller.command(&format!("keystead {}", arguments.join(" ")))?;
    let ran = stage.cli(caller, arguments, stdin)?;
    succeeded(&ran)?;
    teller.answer(&ran.stdout)
}

fn succeeded(ran: &Ran) -> Result<()> {
    ensure!(ran.code == Some(0), "the command ended with {:?} and said: {}", ran.code, ran.shown());
    Ok(())
}

fn refused(ran: &Ran, code: i32, word: &str) -> Result<()> {
    ensure!(ran.code == Some(code), "the command ended with {:?} and said: {}", ran.code, ran.shown());
    ensure!(ran.stderr.contains(word), "the command did not say {word:?} but: {}", ran.shown());
    Ok(())
}

fn local(stage: &Stage) -> Result<Client> {
    let socket = format!("unix://{}", stage.path("data/keystead.sock").display());
    Ok(Client::builder().addr(socket).build_lazy()?)
}

fn share(stage: &Stage, number: u32) -> Result<String> {
    let text = std::fs::read_to_string(stage.path(&format!("shares/share-{number}.txt")))?;
    Ok(text.trim_end().to_owned())
}

fn spiffe(service: &str) -> String {
    format!("spiffe://demo.keystead/service/{service}")
}

fn policy(service: &str) -> String {
    format!(
        "permit (\n  principal == Keystead::Service::\"{service}\",\n  \
         action == Keystead::Action::\"secrets:read\",\n  \
         resource in Keystead::Folder::\"{service}\"\n);\n"
    )
}

/// A value that is found nowhere else.
fn made_up(name: &str) -> Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)?;
    Ok(format!("{name}-{}", data_encoding::HEXLOWER.encode(&random)))
}

/// An entry in one line.
fn line(entry: &v1::AuditEntry) -> String {
    let who = if entry.principal.is_empty() { "-" } else { &entry.principal };
    let columns = [
        format!("{:>3}", entry.sequence),
        format!("{:<8}", entry.kind),
        format!("{who:<15}"),
        format!("{:<17}", entry.action),
    ];
    let rest = [&entry.resource, &entry.decision, &entry.outcome];
    let rest: Vec<&str> = rest.into_iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    format!("{}  {}", columns.join("  "), rest.join("  "))
}

fn collect(dir: &std::path::Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}
