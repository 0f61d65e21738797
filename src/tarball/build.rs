//! Archives for tests, odd and hostile ones included.

/// One PAX record with its length.
pub(crate) fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// An archive under construction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

impl Archive {
    /// A raw header block with its checksum.
    pub(crate) fn block(
        &mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        mode: u32,
        size: u64,
        edit: impl FnOnce(&mut [u8]),
    ) -> &mut Self {
        let mut block = [0_u8; 512];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[136..148].copy_from_slice(b"14500000000\0");
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        edit(&mut block);
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    /// Bytes, padded with `fill` to a block.
    pub(crate) fn data(&mut self, data: &[u8], fill: u8) -> &mut Self {
        self.0.extend_from_slice(data);
        while !self.0.len().is_multiple_of(512) {
            self.0.push(fill);
        }
        self
    }

    pub(crate) fn file(&mut self, name: &str, data: &[u8]) -> &mut Self {
        self.block(b'0', name.as_bytes(), b"", 0o644, data.len() as u64, |_| {})
            .data(data, 0)
    }

    pub(crate) fn dir(&mut self, name: &str) -> &mut Self {
        self.block(b'5', name.as_bytes(), b"", 0o755, 0, |_| {})
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.block(b'2', name.as_bytes(), target.as_bytes(), 0o777, 0, |_| {})
    }

    pub(crate) fn hardlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.block(b'1', name.as_bytes(), target.as_bytes(), 0o644, 0, |_| {})
    }

    pub(crate) fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        let data = records
            .iter()
            .flat_map(|(key, value)| pax_record(key.as_bytes(), value))
            .collect::<Vec<_>>();
        self.block(b'x', b"PaxHeaders/x", b"", 0o644, data.len() as u64, |_| {})
            .data(&data, 0)
    }

    pub(crate) fn end(&mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        std::mem::take(&mut self.0)
    }
}
