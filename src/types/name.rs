//! Names that people give to containers and volumes, and those given to the unnamed.
//!
//! Docker's rule is one pattern for both, `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, with a different sentence
//! for each. A container's name is stored without the leading `/` that the API shows.

/// Why a name is refused. The wording is Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A container's name.
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    Container(String),
    /// A volume's name with a character that is not allowed.
    #[error(
        "create {0}: \"{0}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
         absolute path"
    )]
    Volume(String),
    /// A volume's name of a single character.
    #[error(
        "create {0}: volume name is too short, names should be at least two alphanumeric characters"
    )]
    VolumeShort(String),
}

/// Checks a container's name; returns it without its leading slash.
pub fn container(name: &str) -> Result<&str, NameError> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    if restricted(bare) {
        Ok(bare)
    } else {
        Err(NameError::Container(name.to_owned()))
    }
}

/// Checks a volume's name.
pub fn volume(name: &str) -> Result<&str, NameError> {
    if name.len() == 1 {
        Err(NameError::VolumeShort(name.to_owned()))
    } else if restricted(name) {
        Ok(name)
    } else {
        Err(NameError::Volume(name.to_owned()))
    }
}

/// Whether it consists of what names of containers, volumes and checkpoints may.
pub fn restricted(name: &str) -> bool {
    name.len() > 1
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

/// Makes a name, `adjective_surname`. A caller that finds it taken tries again with a higher
/// `attempt`, which adds a digit.
pub fn random(attempt: u32) -> String {
    let mut dice = [0; 5];
    if getrandom::fill(&mut dice).is_err() {
        // Without random numbers the clock will do: a taken name is only tried again.
        dice.copy_from_slice(&super::timestamp::Timestamp::now().nanos().to_le_bytes()[..5]);
    }
    let pick = |words: &'static [&'static str], high: u8, low: u8| {
        words[usize::from(u16::from_be_bytes([high, low])) % words.len()]
    };
    let name = format!(
        "{}_{}",
        pick(ADJECTIVES, dice[0], dice[1]),
        pick(SURNAMES, dice[2], dice[3])
    );
    if attempt == 0 {
        name
    } else {
        format!("{name}{}", dice[4] % 10)
    }
}

const ADJECTIVES: &[&str] = &[
    "agile", "airy", "amber", "ample", "avid", "balmy", "blithe", "bold", "brave", "breezy",
    "bright", "brisk", "calm", "candid", "cheery", "civil", "clear", "clever", "cosy", "crisp",
    "curious", "dapper", "daring", "deft", "dewy", "eager", "earnest", "fair", "famous", "fleet",
    "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "green", "hardy", "hearty",
    "honest", "humble", "jaunty", "jolly", "keen", "kind", "light", "limber", "lively", "lucid",
    "lush", "mellow", "merry", "mild", "misty", "modest", "mossy", "neat", "nimble", "noble",
    "patient", "placid", "plucky", "polite", "prompt", "proud", "quick", "quiet", "ready",
    "robust", "rosy", "serene", "sharp", "shy", "silent", "silver", "sincere", "sleek", "smooth",
    "snug", "sober", "solid", "spry", "stable", "steady", "sturdy", "subtle", "sunny", "supple",
    "swift", "tender", "tidy", "trusty", "upbeat", "valiant", "verdant", "vivid", "warm", "wise",
    "zesty",
];

const SURNAMES: &[&str] = &[
    "abel",
    "agnesi",
    "ampere",
    "anning",
    "archimedes",
    "arrhenius",
    "avogadro",
    "babbage",
    "banks",
    "bassi",
    "becquerel",
    "bell",
    "bernoulli",
    "bohr",
    "boltzmann",
    "boole",
    "born",
    "boyle",
    "brahe",
    "cannon",
    "cantor",
    "carnot",
    "carson",
    "cauchy",
    "cavendish",
    "celsius",
    "chandra",
    "church",
    "clarke",
    "copernicus",
    "coulomb",
    "curie",
    "dalton",
    "darwin",
    "dirac",
    "doppler",
    "einstein",
    "erdos",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "fibonacci",
    "fourier",
    "franklin",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "gibbs",
    "goodall",
    "hamilton",
    "herschel",
    "hertz",
    "hilbert",
    "hooke",
    "hopper",
    "hubble",
    "humboldt",
    "huygens",
    "hypatia",
    "jacobi",
    "joule",
    "kelvin",
    "kepler",
    "kovalevskaya",
    "lagrange",
    "lamarr",
    "laplace",
    "leavitt",
    "leibniz",
    "linnaeus",
    "lovelace",
    "mach",
    "maxwell",
    "meitner",
    "mendel",
    "mendeleev",
    "mirzakhani",
    "napier",
    "newton",
    "noether",
    "ohm",
    "pascal",
    "pasteur",
    "pauling",
    "planck",
    "poincare",
    "ramanujan",
    "ride",
    "riemann",
    "rubin",
    "rutherford",
    "sagan",
    "shannon",
    "somerville",
    "tesla",
    "turing",
    "volta",
    "wallace",
    "watt",
    "wiles",
    "wright",
    "wu",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers() {
        for name in ["ab", "a1", "web.1", "A_b-c", "/web", "0x"] {
            assert_eq!(container(name), Ok(name.trim_start_matches('/')));
        }
        for name in [
            "", "a", "/", "/a", "-ab", ".ab", "_ab", "a b", "a/b", "//ab", "é1", "ab\n",
        ] {
            assert!(container(name).is_err(), "{name:?}");
        }
        assert_eq!(
            container("a b").map_err(|e| e.to_string()),
            Err("Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed".into())
        );
    }

    #[test]
    fn volumes() {
        assert_eq!(volume("data"), Ok("data"));
        assert!(matches!(volume("d"), Err(NameError::VolumeShort(_))));
        assert!(matches!(volume("./d"), Err(NameError::Volume(_))));
        assert!(matches!(volume("/d"), Err(NameError::Volume(_))));
    }

    #[test]
    fn random_names_are_valid() {
        for attempt in 0..50 {
            let name = random(attempt);
            assert_eq!(container(&name), Ok(name.as_str()));
        }
    }
}
