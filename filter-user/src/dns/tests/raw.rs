// SPDX-License-Identifier: MIT OR Apache-2.0
//! Responses byte by byte: what a server, or somebody who poses as one, may send.

use super::*;

/// A response header to a question, with so many questions and answers.
fn header(question: &Message, questions: u8, answers: u8) -> Vec<u8> {
    let mut bytes = question.metadata.id.to_be_bytes().to_vec();
    bytes.extend([0x81, 0x80, 0, questions, 0, answers, 0, 0, 0, 0]);
    bytes
}

/// The question section as it was asked.
fn asked(question: &Message) -> Vec<u8> {
    let mut alone = Message::query();
    alone.add_query(question.queries[0].clone());
    bytes(&alone).split_off(12)
}

/// An A record of this owner, which is written as it is.
fn record(owner: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend([0, 1, 0, 1, 0, 0, 1, 0, 0, 4]);
    bytes.extend(address);
    bytes
}

/// A record that says that its owner is an alias of a name.
fn alias(owner: &[u8], target: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend([0, 5, 0, 1, 0, 0, 1, 0, 0]);
    bytes.push(u8::try_from(target.len()).unwrap());
    bytes.extend(target);
    bytes
}

/// Where the first record of [`whole`] begins: behind the header and the question, whose name has 15
/// bytes.
const FIRST: u8 = 12 + 15 + 4;

/// The name that was asked for.
const OWNER: &[u8] = &[0xc0, 12];

fn whole(question: &Message, records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = header(question, 1, u8::try_from(records.len()).unwrap());
    bytes.extend(asked(question));
    bytes.extend(records.concat());
    bytes
}

/// Asks for the IPv4 addresses of `a.example.com` at a server that says this over UDP, and
/// `8.8.4.4` over TCP. There is time for two tries.
fn lookup(
    respond: impl Fn(&Message) -> Vec<u8> + 'static,
) -> (Result<Answer, LookupFailure>, Vec<(&'static str, u64)>) {
    run(async {
        let server = Server::start(move |question, via| match via {
            Via::Tcp => vec![bytes(&with(question, &["8.8.4.4"]))],
            Via::Udp => vec![respond(question)],
        })
        .await;
        let resolver = server.resolver();
        let asked_for = to_name(&name("a.example.com")).unwrap();
        let limit = Duration::from_millis(600);
        let answer = match resolver.ask(&asked_for, RecordType::A, limit).await {
            Ok(response) => read(&response, &asked_for, RecordType::A),
            Err(failure) => Err(failure),
        };
        (answer.map(|half| half.into_answer(None)), counted(&resolver))
    })
}

#[test]
fn the_bytes_of_a_good_response() {
    let (answer, counts) = lookup(|question| whole(question, &[record(OWNER, [8, 8, 8, 8])]));
    assert_eq!(addresses(&answer.unwrap()), ["8.8.8.8"]);
    assert_eq!(counts, []);
}

#[test]
fn pointers_go_backwards_or_nowhere() {
    let owners: [&[u8]; 6] = [
        // At itself, behind itself, at the end of the message and far behind it.
        &[0xc0, FIRST],
        &[0xc0, FIRST + 2],
        &[0xc0, FIRST + 16],
        &[0xff, 0xff],
        // A label, then back to that label.
        &[1, b'a', 0xc0, FIRST],
        // A kind of label that doesn't exist (RFC 6891, section 5).
        &[0x41, 0],
    ];
    for owner in owners {
        let (answer, counts) =
            lookup(move |question| whole(question, &[record(owner, [6, 6, 6, 6])]));
        // It stays unread, and no other response comes.
        assert!(answer.is_err(), "{owner:?}: {answer:?}");
        assert_eq!(counts, [("unreadable", 2)], "{owner:?}");
    }
    // Two names that point at each other: the first of them points forward.
    let (answer, _) = lookup(move |question| {
        let first = alias(OWNER, &[0xc0, FIRST + 14]);
        whole(question, &[first, record(&[0xc0, FIRST + 12], [6, 6, 6, 6])])
    });
    assert!(answer.is_err(), "{answer:?}");
}

#[test]
fn a_name_behind_a_chain_of_pointers_is_no_loop() {
    // Pointers at pointers, each one further back, are odd and lead somewhere.
    let (answer, _) = lookup(move |question| {
        let first = record(OWNER, [8, 8, 8, 8]);
        let second = record(&[0xc0, FIRST], [8, 8, 4, 4]);
        whole(question, &[first, second])
    });
    assert_eq!(addresses(&answer.unwrap()), ["8.8.8.8", "8.8.4.4"]);
}

#[test]
fn odd_labels_are_no_other_names() {
    // Each is an owner that is not the name, however much it looks like it.
    let owners: [&[u8]; 7] = [
        b"\x0da.example.com\x00",
        b"\x09a.example\x03com\x00",
        b"\x01a\x0bexample.com\x00",
        b"\x01a\x08example\0\x03com\x00",
        b"\x02a\0\x07example\x03com\x00",
        b"\x01a\x07example\x03com\x01\0\x00",
        b"\x01a\x07example\x05\\.com\x00",
    ];
    for owner in owners {
        let (answer, _) = lookup(move |question| whole(question, &[record(owner, [6, 6, 6, 6])]));
        assert_eq!(answer, Err(LookupFailure::NoData), "{owner:?}");
    }
    // Nor does an alias become another name: it is refused.
    for target in owners {
        let (answer, _) = lookup(move |question| {
            let address = record(b"\x01a\x07example\x03com\x00", [6, 6, 6, 6]);
            whole(question, &[alias(OWNER, target), address])
        });
        assert!(matches!(answer, Err(LookupFailure::Other(_))), "{target:?}: {answer:?}");
    }
}

#[test]
fn only_ascii_letters_have_two_cases() {
    // U+212A (Kelvin) and U+017F (long s) become k and s where case is folded as text, and a
    // Latin-1 letter has bit 5 where ASCII has it.
    let names: [(&str, &[u8]); 3] = [
        ("k.example.com", "\u{212a}".as_bytes()),
        ("s.example.com", "\u{17f}".as_bytes()),
        ("a.example.com", b"\xc1"),
    ];
    for (asked_for, label) in names {
        run(async {
            let server = Server::start(move |question, _| {
                let mut owner = vec![u8::try_from(label.len()).unwrap()];
                owner.extend(label);
                owner.extend(b"\x07example\x03com\x00");
                vec![whole(question, &[record(&owner, [6, 6, 6, 6])])]
            })
            .await;
            let answer = server.resolver().lookup(&name(asked_for)).await;
            assert_eq!(answer, Err(LookupFailure::NoData), "{asked_for}");
        });
    }
}

#[test]
fn the_question_has_to_be_ours() {
    // What comes in place of the question, and how it is counted.
    let other_type = |question: &Message| {
        let mut section = asked(question);
        let at = section.len() - 3;
        section[at] = 28;
        (1, section)
    };
    let other_class = |question: &Message| {
        let mut section = asked(question);
        let at = section.len() - 1;
        section[at] = 3;
        (1, section)
    };
    let two = |question: &Message| (2, asked(question).repeat(2));
    let none = |_: &Message| (0, Vec::new());
    let cut = |_: &Message| (1, vec![63, b'a']);
    let pointer = |_: &Message| (1, vec![0xc0, 4, 0, 1, 0, 1]);
    let dotted = |_: &Message| (1, b"\x0da.example.com\x00\x00\x01\x00\x01".to_vec());
    let longer = |_: &Message| (1, b"\x01a\x07example\x03com\x02uk\x00\x00\x01\x00\x01".to_vec());
    type Section = fn(&Message) -> (u8, Vec<u8>);
    let sections: [(&str, Section); 8] = [
        ("other type", other_type),
        ("other class", other_class),
        ("two", two),
        ("none", none),
        ("cut", cut),
        ("pointer", pointer),
        ("dotted", dotted),
        ("longer", longer),
    ];
    for (what, section) in sections {
        let (answer, counts) = lookup(move |question| {
            let (questions, section) = section(question);
            let mut bytes = header(question, questions, 1);
            bytes.extend(section);
            bytes.extend(record(b"\x01a\x07example\x03com\x00", [6, 6, 6, 6]));
            bytes
        });
        assert_eq!(answer.as_ref().err(), Some(&LookupFailure::Timeout), "{what}: {answer:?}");
        let timeout = ("upstream-timeout", 2);
        assert_eq!(counts, [timeout, ("wrong-question", 2)], "{what}");
    }
}

#[test]
fn strays_are_counted_by_what_they_are() {
    type Stray = fn(&Message) -> Vec<u8>;
    let cases: [(&str, Stray); 4] = [
        ("wrong-id", |question| {
            let mut message = with(question, &["6.6.6.6"]);
            message.metadata.id ^= 1;
            bytes(&message)
        }),
        ("not-a-response", |question| {
            let mut message = with(question, &["6.6.6.6"]);
            message.metadata.message_type = MessageType::Query;
            bytes(&message)
        }),
        ("not-a-response", |question| {
            let mut message = with(question, &["6.6.6.6"]);
            message.metadata.op_code = OpCode::Status;
            bytes(&message)
        }),
        ("unreadable", |question| question.metadata.id.to_be_bytes().to_vec()),
    ];
    for (count, respond) in cases {
        run(async {
            let server = Server::start(move |question, _| {
                vec![respond(question), bytes(&with(question, &["8.8.8.8"]))]
            })
            .await;
            let resolver = server.resolver();
            let answer = resolver.lookup(&name("a.example.com")).await.unwrap();
            assert_eq!(addresses(&answer), ["8.8.8.8"], "{count}");
            assert_eq!(counted(&resolver), [(count, 2)]);
        });
    }
}

#[test]
fn detours_over_tcp_are_counted() {
    let (answer, counts) = lookup(|question| {
        let mut bytes = whole(question, &[record(OWNER, [6, 6, 6, 6])]);
        bytes[2] |= 0b10;
        bytes
    });
    assert_eq!(addresses(&answer.unwrap()), ["8.8.4.4"]);
    assert_eq!(counts, [("truncated", 1)]);
    // A datagram that is cut in the middle of the name is still known to be truncated.
    let (answer, counts) = lookup(|question| {
        let mut bytes = whole(question, &[]);
        bytes[2] |= 0b10;
        bytes.truncate(14);
        bytes
    });
    assert_eq!(addresses(&answer.unwrap()), ["8.8.4.4"]);
    assert_eq!(counts, [("truncated", 1)]);
    let (answer, counts) = lookup(|question| {
        let mut bytes = whole(question, &[record(OWNER, [6, 6, 6, 6])]);
        bytes[13] ^= 0x20;
        bytes
    });
    assert_eq!(addresses(&answer.unwrap()), ["8.8.4.4"]);
    assert_eq!(counts, [("wrong-case", 1)]);
}
