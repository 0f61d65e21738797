//! DNS messages as far as they are looked at (RFC 1035): the header, the one question, the size that
//! the asker takes (RFC 6891); and answers put together. Pure; total on any bytes.
//!
//! Nothing is copied out of a message but the question's name, and pointers are not followed: a
//! question is the first thing in a message, so it has nothing to point back to.

use std::net::IpAddr;

/// Length of a header.
const HEADER: usize = 12;

/// The longest name, in its form on the wire.
const LONGEST_NAME: usize = 255;

/// What every asker takes over UDP.
const PLAIN_SIZE: usize = 512;

/// Seconds for which our answers hold, as Docker's do.
const TTL: u32 = 600;

/// Kinds of records.
pub const A: u16 = 1;
/// A name for an address.
pub const PTR: u16 = 12;
/// A mail server.
pub const MX: u16 = 15;
/// An IPv6 address.
pub const AAAA: u16 = 28;
const OPT: u16 = 41;
/// The Internet.
pub const IN: u16 = 1;

/// The question cannot be read.
const FORMAT_ERROR: u8 = 1;
/// No such operation.
const NOT_IMPLEMENTED: u8 = 4;
/// The server could not find out.
pub const SERVER_FAILURE: u8 = 2;
/// The server will not say.
pub const REFUSED: u8 = 5;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The asker's number.
    pub id: u16,
    /// The name in small letters, without the last dot.
    pub name: String,
    /// The kind of record.
    pub kind: u16,
    /// Of which names; we know those of the Internet alone.
    pub class: u16,
    /// The question as it was sent, in the asker's own letters.
    pub question: Vec<u8>,
    /// The largest answer by UDP, in bytes.
    pub size: usize,
    /// It wants others to be asked.
    recursion: bool,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Reads the name at `at`: in small letters, and where it ends.
fn name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let start = at;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        match length {
            0 => return (at - start <= LONGEST_NAME).then_some((name, at)),
            1..=63 => {
                let label = bytes.get(at..at + length)?;
                if !name.is_empty() {
                    name.push('.');
                }
                // A dot in a label, or what is no letter, is written as bytes are: no such name is
                // ever looked up here.
                for byte in label {
                    match byte {
                        b'!'..=b'-' | b'/'..=b'[' | b']'..=b'~' => {
                            name.push(char::from(byte.to_ascii_lowercase()));
                        }
                        other => name.push_str(&format!("\\{other:03}")),
                    }
                }
                at += length;
            }
            // Pointers, and what has no meaning.
            _ => return None,
        }
        if at - start > LONGEST_NAME {
            return None;
        }
    }
}

impl Query {
    /// Reads a question; `None` where it is none that can be answered.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let flags = u16_at(bytes, 2)?;
        // A response, another operation, or not one question.
        if flags & 0xf800 != 0 || u16_at(bytes, 4)? != 1 {
            return None;
        }
        let (name, end) = name(bytes, HEADER)?;
        let (kind, class) = (u16_at(bytes, end)?, u16_at(bytes, end + 2)?);
        let question = bytes.get(HEADER..end + 4)?;
        // The option record, where there is one, comes right after in what all resolvers send.
        let option = end + 4;
        let has_option = bytes.get(option) == Some(&0) && u16_at(bytes, option + 1) == Some(OPT);
        let size = u16_at(bytes, option + 3)
            .filter(|_| has_option)
            .unwrap_or(0);
        Some(Self {
            id: u16_at(bytes, 0)?,
            name,
            kind,
            class,
            question: question.to_vec(),
            size: usize::from(size).max(PLAIN_SIZE),
            recursion: flags & 0x0100 != 0,
        })
    }

    fn answer(&self, code: u8) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&self.id.to_be_bytes());
        // A response; recursion wanted as it was, and available.
        bytes.push(0x80 | u8::from(self.recursion));
        bytes.push(0x80 | code);
        bytes.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&self.question);
        bytes
    }

    /// An answer that says why there is none.
    pub fn fail(&self, code: u8) -> Vec<u8> {
        self.answer(code)
    }

    /// An answer with these addresses; none is an answer too.
    pub fn addresses(&self, addresses: &[IpAddr], limit: usize) -> Vec<u8> {
        let data = addresses.iter().map(|address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        });
        self.records(data, limit)
    }

    /// An answer with a name.
    pub fn pointer(&self, target: &str, limit: usize) -> Vec<u8> {
        let mut data = Vec::new();
        for label in target.split('.').filter(|label| !label.is_empty()) {
            let label = label.as_bytes();
            let label = label.get(..63).unwrap_or(label);
            data.push(u8::try_from(label.len()).unwrap_or_default());
            data.extend_from_slice(label);
        }
        data.push(0);
        if data.len() > LONGEST_NAME {
            return self.fail(SERVER_FAILURE);
        }
        self.records(std::iter::once(data), limit)
    }

    fn records(&self, data: impl Iterator<Item = Vec<u8>>, limit: usize) -> Vec<u8> {
        let mut bytes = self.answer(0);
        let mut count: u16 = 0;
        for data in data {
            // The name is a pointer to the question's.
            let length = u16::try_from(data.len()).unwrap_or_default();
            if bytes.len() + 12 + data.len() > limit || count == u16::MAX {
                // Truncated.
                bytes[2] |= 0x02;
                break;
            }
            bytes.extend_from_slice(&[0xc0, 0x0c]);
            bytes.extend_from_slice(&self.kind.to_be_bytes());
            bytes.extend_from_slice(&IN.to_be_bytes());
            bytes.extend_from_slice(&TTL.to_be_bytes());
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&data);
            count += 1;
        }
        bytes[6..8].copy_from_slice(&count.to_be_bytes());
        bytes
    }
}

/// The address that a name of a reverse look-up stands for.
pub fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut bytes = [0_u8; 4];
        let mut parts = digits.split('.');
        for byte in bytes.iter_mut().rev() {
            *byte = parts.next()?.parse().ok()?;
        }
        return parts.next().is_none().then(|| bytes.into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut number = 0_u128;
    let mut count = 0;
    for digit in digits.rsplit('.') {
        let digit = u128::from_str_radix(digit, 16)
            .ok()
            .filter(|_| digit.len() == 1)?;
        number = number << 4 | digit;
        count += 1;
    }
    (count == 32).then(|| IpAddr::V6(number.into()))
}

/// The answer to what is no question that can be read; `None` to what is an answer itself, or too
/// short to say who asks.
pub fn refusal(bytes: &[u8]) -> Option<Vec<u8>> {
    let [a, b, high, _, ..] = *bytes.get(..HEADER)? else {
        return None;
    };
    let (response, operation) = (high & 0x80 != 0, high & 0x78);
    if response {
        return None;
    }
    let code = match operation {
        0 => FORMAT_ERROR,
        _ => NOT_IMPLEMENTED,
    };
    let mut answer = vec![0; HEADER];
    answer[..4].copy_from_slice(&[a, b, 0x80 | operation | (high & 1), 0x80 | code]);
    Some(answer)
}

/// The same message with another number.
pub fn renumber(message: &mut [u8], id: u16) {
    if let Some(number) = message.get_mut(..2) {
        number.copy_from_slice(&id.to_be_bytes());
    }
}

/// Whether a message is the answer to this question under this number. Servers give the question's
/// letters back as they were.
pub fn is_answer(message: &[u8], id: u16, question: &[u8]) -> bool {
    let response = u16_at(message, 2).is_some_and(|flags| flags & 0x8000 != 0);
    let echoed = message.get(HEADER..HEADER + question.len());
    response
        && u16_at(message, 0) == Some(id)
        && u16_at(message, 4) == Some(1)
        && echoed.is_some_and(|echoed| echoed.eq_ignore_ascii_case(question))
}

/// How an answer says that it went.
pub fn code(message: &[u8]) -> u8 {
    message.get(3).map_or(SERVER_FAILURE, |byte| byte & 0x0f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        // EDNS: 1232 bytes.
        bytes.extend_from_slice(&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn what_cannot_be_read_is_answered_so() {
        let codes = |change: fn(&mut Vec<u8>)| {
            let mut bytes = question("db", A);
            change(&mut bytes);
            assert_eq!(Query::parse(&bytes), None);
            refusal(&bytes).map(|answer| (answer.len(), answer[..2] == bytes[..2], code(&answer)))
        };
        let format = Some((HEADER, true, FORMAT_ERROR));
        // Cut short; a pointer for a name; two questions.
        assert_eq!(codes(|it| it.truncate(HEADER + 3)), format);
        assert_eq!(codes(|it| it[HEADER] = 0xc0), format);
        assert_eq!(codes(|it| it[5] = 2), format);
        // An update (RFC 2136).
        let unknown = Some((HEADER, true, NOT_IMPLEMENTED));
        assert_eq!(codes(|it| it[2] |= 5 << 3), unknown);
        // Answers are never answered: two servers would go on for ever.
        assert_eq!(codes(|it| it[2] |= 0x80), None);
        assert_eq!(codes(|it| it.truncate(HEADER - 1)), None);
    }

    #[test]
    fn questions_are_read_and_their_letters_kept() {
        let query = Query::parse(&question("DB.Front", A)).unwrap();
        assert_eq!(
            (query.id, &*query.name, query.kind, query.size),
            (0x1234, "db.front", A, 1232)
        );
        let mut chaos = question("version.bind", 16);
        let class = chaos.len() - 12;
        chaos[class] = 3;
        assert_eq!((query.class, Query::parse(&chaos).unwrap().class), (IN, 3));
        let answer = query.addresses(&["172.18.0.2".parse().unwrap()], query.size);
        assert!(is_answer(&answer, 0x1234, &query.question));
        assert_eq!(&answer[12..12 + query.question.len()], &*query.question);
        assert!(answer.windows(2).any(|it| it == b"DB"));
        assert_eq!(&answer[answer.len() - 6..], [0, 4, 172, 18, 0, 2]);
        assert_eq!((answer[2], answer[3], answer[7]), (0x81, 0x80, 1));
        let none = query.addresses(&[], 512);
        assert_eq!((code(&none), none[7]), (0, 0));
        assert_eq!(code(&query.fail(REFUSED)), 5);
    }

    #[test]
    fn answers_that_are_too_long_say_so() {
        let query = Query::parse(&question("many", A)).unwrap();
        let all: Vec<IpAddr> = (0..200).map(|it| IpAddr::from([10, 0, 0, it])).collect();
        let short = query.addresses(&all, 512);
        assert!(short.len() <= 512 && short[2] & 2 != 0);
        let whole = query.addresses(&all, 65535);
        assert_eq!((whole[2] & 2, whole[7]), (0, 200));
    }

    #[test]
    fn reverse_names_are_addresses() {
        assert_eq!(
            reversed("2.0.18.172.in-addr.arpa").unwrap().to_string(),
            "172.18.0.2"
        );
        let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(reversed(six).unwrap().to_string(), "fd00::1");
        for text in [
            "",
            "in-addr.arpa",
            "1.2.3.in-addr.arpa",
            "1.2.3.4.5.in-addr.arpa",
            "x.ip6.arpa",
        ] {
            assert_eq!(reversed(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        let query = Query::parse(&question("a.example", A)).unwrap();
        let good = query.addresses(&["192.0.2.1".parse().unwrap()], 512);
        assert!(!is_answer(&good, 0x1235, &query.question));
        let other = Query::parse(&question("b.example", A)).unwrap();
        assert!(!is_answer(&good, 0x1234, &other.question));
        assert!(!is_answer(
            &question("a.example", A),
            0x1234,
            &query.question
        ));
        // A name that points at itself, one that is too long, half of everything.
        let mut circle = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1];
        assert_eq!(Query::parse(&circle), None);
        circle[2] = 0x81;
        assert_eq!(Query::parse(&circle), None);
        assert_eq!(Query::parse(&question(&["a"; 130].join("."), A)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..64) {
            let _ = Query::parse(&bytes);
            let mut whole = question("some.name", AAAA);
            for (to, from) in whole.iter_mut().skip(cut).zip(&bytes) { *to = *from; }
            if let Some(query) = Query::parse(&whole) {
                prop_assert!(query.addresses(&["10.0.0.1".parse().unwrap()], query.size).len() <= query.size.max(600));
            }
            let _ = is_answer(&bytes, 1, &whole);
            let _ = code(&bytes);
        }
    }
}
