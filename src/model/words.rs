//! The macro that defines the words of an enum's values once, for JSON, metrics, pages and reports. Must not know any
//! enum.

/// Gives an enum without data `ALL`, `name()`, and serde by that name.
macro_rules! words {
    ($kind:ident { $($value:ident = $word:literal),+ $(,)? }) => {
        impl $kind {
            /// All values, in order.
            pub const ALL: [$kind; [$($word),+].len()] = [$($kind::$value),+];

            /// Its word in files, JSON and metrics.
            pub fn name(self) -> &'static str {
                match self {
                    $($kind::$value => $word),+
                }
            }
        }

        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $kind {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<$kind, D::Error> {
                let word = <String as serde::Deserialize>::deserialize(from)?;
                let found = $kind::ALL.into_iter().find(|value| value.name() == word);
                found.ok_or_else(|| serde::de::Error::unknown_variant(&word, &[$($word),+]))
            }
        }
    };
}

pub(crate) use words;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::model::{Consistency, HookStatus};

    #[test]
    fn words_are_serialized_as_json_values_and_keys() {
        assert_eq!(serde_json::to_string(&Consistency::Filesystem).unwrap(), "\"filesystem\"");
        let counts = BTreeMap::from([(HookStatus::Lost, 3)]);
        let json = serde_json::to_string(&counts).unwrap();
        assert_eq!(json, r#"{"lost":3}"#);
        assert_eq!(serde_json::from_str::<BTreeMap<HookStatus, u32>>(&json).unwrap(), counts);
        let error = serde_json::from_str::<Consistency>("\"best\"").unwrap_err().to_string();
        assert!(error.contains("unknown variant `best`") && error.contains("`crash`"), "{error}");
    }
}
