//! What was written as the clients know it, and the comparison with what a vault holds. Invariant: an acknowledged write is
//! there with exactly its bytes, once; one without an answer is there whole, or not at all.

use std::collections::HashMap;

use keystead_proto::v1;
use keystead_proto::v1::secrets_service_client::SecretsServiceClient;
use keystead_tests::{Site, raw};
use tonic::transport::Channel;
use tonic::{Code, Request};

/// One write and what became of it.
#[derive(Clone)]
pub(crate) struct Write {
    /// The request's id: in the header, and against repetition.
    pub(crate) id: String,
    /// Where.
    pub(crate) path: String,
    /// What.
    pub(crate) value: Vec<u8>,
    /// What is known of it.
    pub(crate) fate: Fate,
}

/// What is known of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// The server said that it is this version.
    Acknowledged(u64),
    /// The server was ended before it answered.
    Unknown,
    /// It turned out to be there, as this version.
    Present(u64),
    /// It turned out not to be there.
    Absent,
}

impl Write {
    /// The call.
    pub(crate) fn request(&self, header: &str) -> Request<v1::PutSecretRequest> {
        let value = v1::secret_value::Value::Data(self.value.clone());
        let mut request = Request::new(v1::PutSecretRequest {
            path: self.path.clone(),
            value: Some(v1::SecretValue { value: Some(value) }),
            expected_version: None,
            request_id: self.id.clone(),
        });
        request.metadata_mut().insert("x-request-id", header.parse().unwrap());
        request
    }
}

/// All writes of a test.
#[derive(Default)]
pub(crate) struct Ledger {
    /// In the order of each path.
    pub(crate) writes: Vec<Write>,
    checked: usize,
}

impl Ledger {
    /// The writes that were not compared yet.
    pub(crate) fn fresh(&mut self) -> &mut [Write] {
        self.writes.get_mut(self.checked..).unwrap()
    }

    /// How many writes were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.writes.iter().filter(|write| matches!(write.fate, Fate::Acknowledged(_))).count()
    }

    /// Compares what was written since the last time, and finds out the fate of what is unknown; says what is wrong.
    pub(crate) async fn compare_fresh(&mut self, site: &Site) -> Vec<String> {
        let mut newest = self.newest();
        let mut secrets = secrets(site);
        let mut faults = Vec::new();
        for write in self.fresh() {
            match write.fate {
                Fate::Acknowledged(version) => {
                    faults.extend(differs(&mut secrets, write, version).await);
                }
                Fate::Unknown => {
                    let last = newest.get(&write.path).copied().unwrap_or(0);
                    let current = current_version(&mut secrets, &write.path).await;
                    if current == last {
                        write.fate = Fate::Absent;
                    } else if current == last + 1 {
                        write.fate = Fate::Present(current);
                        newest.insert(write.path.clone(), current);
                        faults.extend(differs(&mut secrets, write, current).await);
                    } else {
                        faults.push(format!("{} has version {current} after {last}", write.path));
                    }
                }
                Fate::Present(_) | Fate::Absent => {}
            }
        }
        faults
    }

    /// Compares everything that is known to be there.
    pub(crate) async fn compare_all(&self, site: &Site) -> Vec<String> {
        let mut secrets = secrets(site);
        let mut faults = Vec::new();
        for write in &self.writes {
            if let Fate::Acknowledged(version) | Fate::Present(version) = write.fate {
                faults.extend(differs(&mut secrets, write, version).await);
            }
        }
        faults
    }

    /// Sends again what had no answer: the same id makes it happen once in all.
    pub(crate) async fn repeat_unanswered(&mut self, site: &Site) -> Vec<String> {
        let newest = self.newest();
        let mut secrets = secrets(site);
        let mut faults = Vec::new();
        for write in self.fresh() {
            let expected = match write.fate {
                Fate::Present(version) => version,
                Fate::Absent => newest.get(&write.path).copied().unwrap_or(0) + 1,
                Fate::Acknowledged(_) | Fate::Unknown => continue,
            };
            let header = format!("{}-again", write.id);
            let answer = secrets.put_secret(write.request(&header)).await.unwrap().into_inner();
            let version = answer.version.unwrap().version;
            if version != expected {
                faults.push(format!("{} repeated is version {version}, not {expected}", write.id));
            }
            write.fate = Fate::Present(version);
        }
        faults
    }

    /// What was compared so far is settled.
    pub(crate) fn settle(&mut self) {
        self.checked = self.writes.len();
    }

    /// The newest version of each path; a path's acknowledged versions must have no gap.
    fn newest(&self) -> HashMap<String, u64> {
        let mut newest = HashMap::new();
        for write in &self.writes {
            if let Fate::Acknowledged(version) | Fate::Present(version) = write.fate {
                let before = newest.insert(write.path.clone(), version).unwrap_or(0);
                assert!(version > before, "{} went from version {before} to {version}", write.path);
            }
        }
        newest
    }
}

/// Calls as the operator.
pub(crate) fn secrets(site: &Site) -> SecretsServiceClient<Channel> {
    SecretsServiceClient::new(raw::channel(site, Some(site.admin())))
}

async fn current_version(secrets: &mut SecretsServiceClient<Channel>, path: &str) -> u64 {
    match secrets.get_secret_history(v1::GetSecretHistoryRequest { path: path.to_owned() }).await {
        Ok(history) => history.into_inner().current_version,
        Err(refused) if refused.code() == Code::NotFound => 0,
        Err(refused) => panic!("the history of {path} cannot be read: {refused}"),
    }
}

async fn differs(secrets: &mut SecretsServiceClient<Channel>, write: &Write, version: u64) -> Option<String> {
    let place = format!("{} version {version}", write.path);
    match secrets.get_secret(v1::GetSecretRequest { path: write.path.clone(), version }).await {
        Ok(answer) => match answer.into_inner().value.and_then(|value| value.value) {
            Some(v1::secret_value::Value::Data(data)) if data == write.value => None,
            _ => Some(format!("{place} has another value")),
        },
        Err(refused) => Some(format!("{place}: {}", refused.message())),
    }
}
