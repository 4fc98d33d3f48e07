//! Frames of the control stream and of transfer streams: a kind, then a body. Whatever is accepted is written back as it
//! was read, is read again as the same message, and keeps its limits.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use remote_network_core::codec::{DecodeError, Dict, FRAME_BODY_MAX, Frame};
use remote_network_core::identity::seek::{Seek, Seen};
use remote_network_core::job::message::Message;
use remote_network_core::limits::SERVICES_MAX;
use remote_network_core::service::catalogue;
use remote_network_core::transfer::message::{Answer, Fetch, FrameIntake};
use remote_network_fuzz::form::{assert_within, within};
use std::fmt::Debug;

fn law<T: PartialEq + Debug>(
    frame: &Frame,
    read: impl Fn(&Frame) -> Result<T, DecodeError>,
    write: impl Fn(&T) -> Frame,
) -> Option<T> {
    let message = read(frame).ok()?;
    let written = write(&message);
    assert_eq!(written.kind, frame.kind);
    assert!(written.body.len() <= FRAME_BODY_MAX);
    assert_within(&written.body, &frame.body);
    assert_eq!(read(&written).as_ref(), Ok(&message));
    Some(message)
}

fn answer_frame(answer: &Answer) -> Frame {
    match answer {
        Answer::Head(head) => head.to_frame(),
        Answer::Refused(refused) => refused.to_frame(),
    }
}

/// A catalogue may hold services of later versions, which are passed over; the others follow the law, in their order.
fn offered(frame: &Frame) {
    let Ok(services) = catalogue::decode(frame) else { return };
    let written = catalogue::encode(services.iter());
    assert!(written.kind == frame.kind && written.body.len() <= FRAME_BODY_MAX);
    let listed = |body: &[u8]| {
        let d = Dict::decode(body, FRAME_BODY_MAX).expect("canonical");
        d.list("s", SERVICES_MAX).expect("a list").to_vec()
    };
    let mut read = listed(&frame.body).into_iter();
    for service in listed(&written.body) {
        assert!(read.any(|r| within(&service, &r)), "{service:?} was not there");
    }
    assert_eq!(catalogue::decode(&written), Ok(services));
}

/// However an answer is cut on its way, the intake asks for no byte too many and reads the same.
fn intake(frame: &Frame) {
    let bytes = frame.encode();
    let mut rest = &bytes[..];
    let mut intake = FrameIntake::default();
    let taken = loop {
        let wanted = intake.wanted();
        assert!(wanted > 0);
        let (piece, after) = rest.split_at(wanted.min(rest.len()));
        rest = after;
        match intake.push(piece) {
            Ok(None) => assert!(!piece.is_empty(), "a whole frame is not enough"),
            other => break other,
        }
    };
    match taken {
        Ok(answer) => {
            assert!(rest.is_empty(), "more was read than the frame");
            assert_eq!(answer, Answer::from_frame(frame).ok());
        }
        Err(_) => assert!(Answer::from_frame(frame).is_err()),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, body)) = bytes.split_first() else { return };
    let frame = Frame { kind, body: body.to_vec() };
    law(&frame, Message::from_frame, Message::to_frame);
    if let Some(fetch) = law(&frame, Fetch::from_frame, Fetch::to_frame) {
        let pieces: Vec<u32> = fetch.want.iter().take(10_000).collect();
        assert!(pieces.is_sorted_by(|a, b| a < b));
        assert!(pieces.last().is_none_or(|last| *last < fetch.want.end()));
    }
    law(&frame, Answer::from_frame, answer_frame);
    offered(&frame);
    law(&frame, Seek::from_frame, Seek::to_frame);
    law(&frame, Seen::from_frame, Seen::to_frame);
    intake(&frame);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    remote_network_fuzz::mutate::bencode(data, size, max_size, seed, 1)
});
