//! Where bytes of a set are in some text, a bit for each byte of it.
//!
//! With AVX2 32 bytes are looked at at once: two tables of sixteen bytes, one for each half of a byte,
//! and what both say of it is the row of the set that it is in. (Half of what log text takes to be
//! encoded was looking for what is to be escaped.) Elsewhere each byte is looked up in a table.

/// Bytes that are marked together.
pub const WORD: usize = 64;

/// A set of bytes.
#[derive(Debug)]
pub struct ByteSet {
    /// By the lower half of a byte: which rows it is in.
    low: [u8; 16],
    /// By the upper half: which row that is.
    high: [u8; 16],
    /// By the byte.
    #[allow(clippy::struct_field_names)]
    bytes: [bool; 256],
}

impl ByteSet {
    /// The set of those bytes for which the table says so. They may have eight upper halves at most,
    /// where those that have the same lower halves count as one.
    ///
    /// # Panics
    /// Where there are more; so it is for constants.
    pub const fn new(bytes: [bool; 256]) -> Self {
        let mut rows = [0_u16; 8];
        let mut count = 0;
        let mut high = [0; 16];
        let mut upper = 0;
        while upper < 16 {
            let mut row = 0;
            let mut lower = 0;
            while lower < 16 {
                row |= (bytes[upper << 4 | lower] as u16) << lower;
                lower += 1;
            }
            if row != 0 {
                let mut number = 0;
                while number < count && rows[number] != row {
                    number += 1;
                }
                rows[number] = row;
                high[upper] = 1 << number;
                if number == count {
                    count += 1;
                }
            }
            upper += 1;
        }
        let mut low = [0; 16];
        let mut lower = 0;
        while lower < 16 {
            let mut number = 0;
            while number < count {
                low[lower] |= ((rows[number] >> lower & 1) as u8) << number;
                number += 1;
            }
            lower += 1;
        }
        Self { low, high, bytes }
    }

    /// Whether a byte is in it.
    #[inline]
    pub const fn contains(&self, byte: u8) -> bool {
        self.bytes[byte as usize]
    }

    /// Marks the bytes of `text` that are in the set, [`WORD`] in a mark, the first in its lowest bit,
    /// and tells whether all of `text` is ASCII. What of `marks` is beyond its end stays.
    ///
    /// # Panics
    /// Where `marks` has no room.
    pub fn mark(&self, text: &[u8], marks: &mut [u64]) -> bool {
        let (words, rest) = text.as_chunks::<WORD>();
        let (marks, last) = marks.split_at_mut(words.len());
        let is_ascii = self.mark_words(words, marks);
        if rest.is_empty() {
            return is_ascii;
        }
        let mut word = [0; WORD];
        word[..rest.len()].copy_from_slice(rest);
        let is_rest_ascii = self.mark_words(&[word], &mut last[..1]);
        last[0] &= (1 << rest.len()) - 1;
        is_ascii && is_rest_ascii
    }

    fn mark_words(&self, words: &[[u8; WORD]], marks: &mut [u64]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, as was just asked.
            return unsafe { self.mark_avx2(words, marks) };
        }
        self.mark_each(words, marks)
    }

    fn mark_each(&self, words: &[[u8; WORD]], marks: &mut [u64]) -> bool {
        for (word, mark) in words.iter().zip(marks) {
            let bits = word.iter().rev();
            *mark = bits.fold(0, |mark, byte| mark << 1 | u64::from(self.contains(*byte)));
        }
        words.as_flattened().is_ascii()
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn mark_avx2(&self, words: &[[u8; WORD]], marks: &mut [u64]) -> bool {
        use std::arch::x86_64::{
            __m128i, __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256,
            _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_or_si256,
            _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi16,
        };

        let table = |table: &[u8; 16]| {
            // SAFETY: sixteen bytes are read of sixteen; they need no alignment.
            let table = unsafe { _mm_loadu_si128(table.as_ptr().cast::<__m128i>()) };
            _mm256_broadcastsi128_si256(table)
        };
        let load = |bytes: &[u8; WORD / 2]| {
            // SAFETY: 32 bytes are read of 32; they need no alignment.
            unsafe { _mm256_loadu_si256(bytes.as_ptr().cast::<__m256i>()) }
        };
        let (low, high) = (table(&self.low), table(&self.high));
        let (nibble, zero) = (_mm256_set1_epi8(15), _mm256_setzero_si256());
        // A bit for each byte that is not in the set.
        let others = |bytes| {
            let lower = _mm256_and_si256(bytes, nibble);
            let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble);
            let rows = _mm256_and_si256(
                _mm256_shuffle_epi8(low, lower),
                _mm256_shuffle_epi8(high, upper),
            );
            _mm256_movemask_epi8(_mm256_cmpeq_epi8(rows, zero)).cast_unsigned()
        };
        let mut all = zero;
        for (word, mark) in words.iter().zip(marks) {
            if let ([first, second], _) = word.as_chunks() {
                let (first, second) = (load(first), load(second));
                *mark = !(u64::from(others(first)) | u64::from(others(second)) << 32);
                all = _mm256_or_si256(all, _mm256_or_si256(first, second));
            }
        }
        _mm256_movemask_epi8(all) == 0
    }
}

/// Where the bits of marks are: the places of the bytes that were marked, in order.
#[derive(Debug, Clone)]
pub struct Places<'a> {
    marks: std::slice::Iter<'a, u64>,
    /// What is left of the one that was taken last.
    mark: u64,
    /// Where that one ends.
    end: usize,
}

/// The places of the bytes that were marked, in order.
pub fn places(marks: &[u64]) -> Places<'_> {
    Places {
        marks: marks.iter(),
        mark: 0,
        end: 0,
    }
}

impl Iterator for Places<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.mark == 0 {
            self.mark = *self.marks.next()?;
            self.end += WORD;
        }
        let place = self.end - WORD + self.mark.trailing_zeros() as usize;
        self.mark &= self.mark - 1;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: ByteSet = ByteSet::new({
        let mut bytes = [false; 256];
        let mut byte = 0;
        while byte < 0x20 {
            bytes[byte] = true;
            byte += 1;
        }
        let some = b"\"&<>\\~\x7f\xe2\xff";
        let mut at = 0;
        while at < some.len() {
            bytes[some[at] as usize] = true;
            at += 1;
        }
        bytes
    });

    #[test]
    fn each_byte_is_marked_where_it_stands() {
        for byte in 0..=255 {
            for at in 0..2 * WORD + 3 {
                let mut text = vec![b'x'; at + 1];
                text[at] = byte;
                text.extend_from_slice(b"yz");
                let mut expected = [0; 3];
                expected[at / WORD] |= u64::from(ODD.contains(byte)) << (at % WORD);
                let mut marks = [0; 3];
                assert_eq!(ODD.mark(&text, &mut marks), byte.is_ascii());
                assert_eq!(marks, expected, "{byte} at {at}");
                let found: Vec<usize> = places(&marks).collect();
                let expected = if ODD.contains(byte) { &[at][..] } else { &[] };
                assert_eq!(found, expected, "{byte} at {at}");
            }
            let words = [[byte; WORD]; 2];
            let mut marks = [0; 2];
            assert_eq!(ODD.mark_each(&words, &mut marks), byte.is_ascii());
            let expected = if ODD.contains(byte) { u64::MAX } else { 0 };
            assert_eq!(marks, [expected; 2]);
            assert_eq!(ODD.mark(words.as_flattened(), &mut marks), byte.is_ascii());
            assert_eq!(marks, [expected; 2]);
        }
    }
}
