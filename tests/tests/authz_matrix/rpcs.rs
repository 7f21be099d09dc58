//! The rpcs that the descriptor set declares.

use keystead_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::FileDescriptorSet;

/// One rpc.
pub(crate) struct Rpc {
    /// `Service/Method`.
    pub(crate) name: String,
    /// Its request's message.
    pub(crate) input: String,
    /// It takes a stream.
    pub(crate) client_streaming: bool,
}

/// All of them.
pub(crate) fn rpcs() -> Vec<Rpc> {
    let mut rpcs = Vec::new();
    for file in FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file {
        for service in &file.service {
            assert_eq!(file.package(), "keystead.v1", "calls.rs knows this package only");
            for method in &service.method {
                rpcs.push(Rpc {
                    name: format!("{}/{}", service.name(), method.name()),
                    input: method.input_type().rsplit('.').next().unwrap().to_owned(),
                    client_streaming: method.client_streaming(),
                });
            }
        }
    }
    assert!(rpcs.len() > 20, "{} rpcs: the descriptor set was read wrongly", rpcs.len());
    rpcs
}
