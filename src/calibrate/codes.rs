//! The codes of a weight, as text in the JSON of a calibration.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The codes of a weight `[K, N]`.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightCodes(Vec<i8>);

impl WeightCodes {
    pub(super) fn new(codes: &Array2<i8>) -> Self {
        Self(codes.iter().copied().collect())
    }

    /// Row after row.
    pub(super) fn all(&self) -> &[i8] {
        &self.0
    }

    /// The codes of a weight of this shape; `None` if they are of another.
    pub(crate) fn matrix(&self, shape: [usize; 2]) -> Option<ArrayView2<'_, i8>> {
        ArrayView2::from_shape(shape, &self.0).ok()
    }
}

impl Serialize for WeightCodes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().map(|&code| code.cast_unsigned()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for WeightCodes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes.into_iter().map(u8::cast_signed).collect()))
    }
}
