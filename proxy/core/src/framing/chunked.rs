//! Finds the end of a chunked body (RFC 9112 section 7.1). Sizes and line ends must be exactly as written there.

use super::head::{is_token, is_value};

/// Digits of a chunk's size; 16 hold any 64-bit length.
const SIZE_MAX_DIGITS: u8 = 16;
/// Bytes of chunk extensions in one body. No registry client sends any.
const EXTENSIONS_MAX_BYTES: usize = 1 << 10;
/// Bytes of the trailer section.
const TRAILERS_MAX_BYTES: usize = 8 << 10;

/// The position in a chunked body.
#[derive(Default)]
pub(super) struct Chunked {
    place: Place,
    size: u64,
    digits: u8,
    extension_bytes: usize,
    trailer_bytes: usize,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Place {
    #[default]
    Size,
    Extension,
    SizeFeed,
    Data,
    DataReturn,
    DataFeed,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerFeed,
    EndFeed,
    End,
}

impl Chunked {
    /// Reads `bytes`. Returns how many of them are valid, and whether the body ended with them or why it is malformed.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> (usize, Result<bool, &'static str>) {
        let mut used = 0;
        while used < bytes.len() {
            if self.place == Place::Data {
                let step = usize::try_from(self.size).map_or(usize::MAX, |size| size).min(bytes.len() - used);
                self.size -= step as u64;
                used += step;
                if self.size == 0 {
                    self.place = Place::DataReturn;
                }
                continue;
            }
            match self.byte(bytes[used]) {
                Ok(next) => self.place = next,
                Err(reason) => return (used, Err(reason)),
            }
            used += 1;
            if self.place == Place::End {
                return (used, Ok(true));
            }
        }
        (used, Ok(false))
    }

    fn byte(&mut self, byte: u8) -> Result<Place, &'static str> {
        match (self.place, byte) {
            (Place::Size, b'\r') if self.digits > 0 => Ok(Place::SizeFeed),
            (Place::Size, b';') if self.digits > 0 => self.extension(),
            (Place::Size, digit) => self.digit(digit),
            (Place::Extension, b'\r') => Ok(Place::SizeFeed),
            (Place::Extension, byte) if is_value(byte) => self.extension(),
            (Place::SizeFeed, b'\n') => Ok(self.begin_data()),
            (Place::DataReturn, b'\r') => Ok(Place::DataFeed),
            (Place::DataFeed, b'\n') => Ok(Place::Size),
            (Place::TrailerStart, b'\r') => Ok(Place::EndFeed),
            (Place::TrailerStart | Place::TrailerName, byte) if is_token(byte) => self.trailer(Place::TrailerName),
            (Place::TrailerName, b':') => self.trailer(Place::TrailerValue),
            (Place::TrailerValue, b'\r') => Ok(Place::TrailerFeed),
            (Place::TrailerValue, byte) if is_value(byte) => self.trailer(Place::TrailerValue),
            (Place::TrailerFeed, b'\n') => Ok(Place::TrailerStart),
            (Place::EndFeed, b'\n') => Ok(Place::End),
            (Place::TrailerStart | Place::TrailerName | Place::TrailerValue, _) => Err("a trailer field is malformed"),
            (Place::Extension, _) => Err("a chunk extension has a control character"),
            _ => Err("a chunk does not end where its size says, with CRLF"),
        }
    }

    fn digit(&mut self, digit: u8) -> Result<Place, &'static str> {
        let value = char::from(digit).to_digit(16).ok_or("a chunk size is not hexadecimal")?;
        if self.digits == SIZE_MAX_DIGITS {
            return Err("a chunk size has more than 16 digits");
        }
        self.digits += 1;
        self.size = self.size << 4 | u64::from(value);
        Ok(Place::Size)
    }

    fn begin_data(&mut self) -> Place {
        self.digits = 0;
        if self.size == 0 { Place::TrailerStart } else { Place::Data }
    }

    fn extension(&mut self) -> Result<Place, &'static str> {
        self.extension_bytes += 1;
        let fits = self.extension_bytes <= EXTENSIONS_MAX_BYTES;
        fits.then_some(Place::Extension).ok_or("the body has more than 1 KiB of chunk extensions")
    }

    fn trailer(&mut self, next: Place) -> Result<Place, &'static str> {
        self.trailer_bytes += 1;
        let fits = self.trailer_bytes <= TRAILERS_MAX_BYTES;
        fits.then_some(next).ok_or("the body has more than 8 KiB of trailers")
    }
}
