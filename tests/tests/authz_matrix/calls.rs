//! Calls any rpc with the bytes of any message. A stream is asked for its first answer.

use bytes::{Buf, BufMut, Bytes};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// What came back, as far as a caller can see it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The code.
    pub(crate) code: Code,
    /// The reason, for programs.
    pub(crate) reason: String,
    message: String,
    details: Bytes,
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        Self {
            code: status.code(),
            reason,
            message: status.message().to_owned(),
            details: Bytes::copy_from_slice(status.details()),
        }
    }
}

/// Calls `Service/Method`. The request's id is always the same, so that equal refusals are equal to the byte.
pub(crate) async fn call(channel: Channel, rpc: &str, authorization: Option<&str>, message: &[u8]) -> Answer {
    let mut request = Request::new(Bytes::copy_from_slice(message));
    request.metadata_mut().insert("x-request-id", "authz-matrix".parse().unwrap());
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    }
    let path = PathAndQuery::try_from(format!("/keystead.v1.{rpc}")).unwrap();
    match first_answer(channel, request, path).await {
        Ok(()) => {
            Answer { code: Code::Ok, reason: String::new(), message: String::new(), details: Bytes::new() }
        }
        Err(status) => status.into(),
    }
}

async fn first_answer(channel: Channel, request: Request<Bytes>, path: PathAndQuery) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    // On the wire a single answer is a stream of one.
    let mut answers = grpc.server_streaming(request, path, Plain).await?.into_inner();
    answers.message().await.map(drop)
}

#[derive(Clone, Copy)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
