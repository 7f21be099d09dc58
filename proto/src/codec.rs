//! The codec of the generated clients and servers: prost's, with buffers of the size of the message.
//!
//! tonic's own begins each message with 8 KiB in either direction. A server that wipes what it frees pays for those
//! bytes twice, and most messages here are a tenth of that.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstCodec;

/// Where a buffer begins: the header and a small message. Larger ones are made room for at once, by their length.
const FIRST_BYTES: usize = 256;

/// tonic's own: how much of a stream is gathered before it is sent.
const YIELD_BYTES: usize = 32 * 1024;

fn settings() -> BufferSettings {
    BufferSettings::new(FIRST_BYTES, YIELD_BYTES)
}

/// Encodes and decodes messages.
#[derive(Debug, Clone)]
pub struct SizedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SizedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SizedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = SizedEncoder<T>;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        SizedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

/// Encodes messages.
#[derive(Debug, Clone)]
pub struct SizedEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for SizedEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Growing step by step would copy the message several times.
        buf.reserve(item.encoded_len());
        item.encode(buf).map_err(|_| Status::internal("an answer does not fit its buffer"))
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}
