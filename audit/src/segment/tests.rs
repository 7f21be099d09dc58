//! Frames and file headers: what is written is read, what is damaged is noticed.

use super::*;
use crate::merkle::leaf_hash;
use proptest::collection::vec;
use proptest::prelude::*;

fn edge(size: u64) -> TreeEdge {
    let mut edge = TreeEdge::empty();
    for n in 0..size {
        edge.push(leaf_hash(&n.to_be_bytes()));
    }
    edge
}

fn read_all(bytes: &[u8], first_seq: u64, limit: u64) -> Result<Vec<Result<Vec<u8>, FrameFault>>, ReadError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    let mut reader = SegmentReader::open(File::open(&path).unwrap(), &path, first_seq)?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame(limit).unwrap() {
        let stop = frame.is_err();
        frames.push(frame.map(<[u8]>::to_vec));
        if stop {
            break;
        }
    }
    Ok(frames)
}

#[test]
fn a_damaged_header_is_named() {
    let good = encode_file_header(&edge(5));
    assert!(read_all(&good, 5, u64::MAX).unwrap().is_empty());
    assert!(matches!(
        read_all(&good, 4, u64::MAX),
        Err(ReadError::BadHeader { fault: HeaderFault::WrongName { found: 5 }, .. })
    ));
    for at in 0..good.len() {
        for flip in [1, 0x80] {
            let mut bytes = good.clone();
            bytes[at] ^= flip;
            assert!(matches!(read_all(&bytes, 5, u64::MAX), Err(ReadError::BadHeader { .. })), "byte {at}");
        }
        assert!(
            matches!(
                read_all(&good[..at], 5, u64::MAX),
                Err(ReadError::BadHeader { fault: HeaderFault::Truncated, .. })
            ),
            "cut at {at}"
        );
    }
}

#[test]
fn a_frame_claiming_too_much_is_refused_before_it_is_read() {
    let mut bytes = encode_file_header(&edge(0));
    bytes.extend_from_slice(&FRAME_MAGIC);
    bytes.extend_from_slice(&u32::MAX.to_be_bytes());
    bytes.extend_from_slice(&[0; 8]);
    let frames = read_all(&bytes, 0, u64::MAX).unwrap();
    assert_eq!(frames, [Err(FrameFault::BadLength { length: u32::MAX })]);
}

#[test]
fn a_limit_hides_what_follows_it() {
    let mut bytes = encode_file_header(&edge(0));
    append_frame(&mut bytes, 0, &[b"one"]);
    let limit = len64(bytes.len());
    append_frame(&mut bytes, 0, &[b"two"]);
    assert_eq!(read_all(&bytes, 0, limit).unwrap(), [Ok(b"one".to_vec())]);
    assert_eq!(read_all(&bytes, 0, u64::MAX).unwrap().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_are_read_as_written(entries in vec(vec(any::<u8>(), 0..2000), 0..40), size in 0u64..9) {
        let mut bytes = encode_file_header(&edge(size));
        for entry in &entries {
            let (left, right) = entry.split_at(entry.len() / 2);
            append_frame(&mut bytes, 77, &[left, right]);
        }
        let read = read_all(&bytes, size, u64::MAX).unwrap();
        prop_assert_eq!(read.into_iter().collect::<Result<Vec<_>, _>>(), Ok(entries));
    }

    #[test]
    fn a_flipped_byte_in_a_frame_is_noticed(
        entry in vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), flip in 1u8..,
    ) {
        let header = encode_file_header(&edge(0));
        let mut frame = Vec::new();
        append_frame(&mut frame, 5, &[&entry]);
        let at = at.index(frame.len());
        frame[at] ^= flip;
        let read = read_all(&[header, frame].concat(), 0, u64::MAX).unwrap();
        prop_assert!(matches!(read.as_slice(), [Err(_)]));
    }

    #[test]
    fn later_frames_tell_whether_damage_was_durable(
        garbage in vec(any::<u8>(), 0..100), entry in vec(any::<u8>(), 0..100), durable in 0u64..200,
    ) {
        let mut rest = garbage.clone();
        append_frame(&mut rest, durable, &[&entry]);
        prop_assert_eq!(shows_durable(&rest, 100), durable > 100);
        rest.pop();
        prop_assert!(!shows_durable(&rest, 100));
    }
}

#[test]
fn the_documented_vectors_hold() {
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    assert_eq!(hex(&encode_file_header(&edge(0))), "4b5341554449540a0100000000000000000054d9e7fc");
    let entry = "0101000000000000000102000001a200f2c199066e6f64652d310000000101";
    let mut frame = Vec::new();
    let begin = append_frame(&mut frame, 22, &[&data_encoding::HEXLOWER.decode(entry.as_bytes()).unwrap()]);
    assert_eq!(begin, FRAME_HEADER);
    assert_eq!(hex(&frame), "ff4b53fe0000001f00000016005893ac".to_owned() + entry);
}
