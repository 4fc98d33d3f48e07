//! Frames of a control stream: however the bytes are cut on their way, the same frames come out, and what is buffered
//! stays within one frame and the bytes just pushed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remote_network_core::codec::{FRAME_BODY_MAX, Frame, FrameReader};

fn read(pieces: impl Iterator<Item = Vec<u8>>) -> (Vec<Frame>, bool) {
    let mut reader = FrameReader::default();
    let mut frames = Vec::new();
    for piece in pieces {
        reader.push(&piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
        assert!(reader.buffered() < 5 + FRAME_BODY_MAX);
    }
    (frames, false)
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, cuts) = input;
    let whole = read(std::iter::once(bytes.clone()));
    let mut rest = &bytes[..];
    let mut cuts = cuts.into_iter().cycle();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let len = usize::from(cuts.next().unwrap_or(1)).clamp(1, rest.len());
        let (piece, after) = rest.split_at(len);
        pieces.push(piece.to_vec());
        rest = after;
    }
    assert_eq!(read(pieces.into_iter()), whole);
    let encoded: Vec<u8> = whole.0.iter().flat_map(Frame::encode).collect();
    assert!(bytes.starts_with(&encoded));
});
