//! The compiler against the oracle: Docker's own profile on every number, and random profiles.

use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;

use super::interpreter::{Call, check, judge, run};
use super::table::TABLE;
use super::*;
use crate::userns::caps;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KERNEL: KernelVersion = KernelVersion(6, 18);

fn docker(capabilities: u64, native: Arch) -> LinuxSeccomp {
    let profile = Profile::docker_default().unwrap();
    profile
        .evaluate(capabilities, native, KERNEL)
        .unwrap()
        .unwrap()
}

fn call(arch: Arch, name: &str, args: &[u64]) -> Call {
    let mut six = [0; 6];
    six[..args.len()].copy_from_slice(args);
    Call {
        number: number(name, arch).unwrap_or_else(|| panic!("{name} on {arch:?}")),
        arch: arch.audit(),
        args: six,
    }
}

#[test]
fn dockers_profile_answers_as_documented() {
    use Arch::{Aarch64, Arm, X32, X86, X86_64};
    const CLONE_NEWUSER: u64 = 0x1000_0000;
    let default = caps::DOCKER_DEFAULT;
    let admin = default | 1 << 21;
    for (native, caps, arch, name, args, expected) in [
        (X86_64, default, X86_64, "read", &[][..], ALLOW),
        (X86_64, default, X86, "socketcall", &[], ALLOW),
        (X86_64, default, X32, "execveat", &[], ALLOW),
        (X86_64, default, X86_64, "mount", &[], EPERM),
        (X86_64, admin, X86_64, "mount", &[], ALLOW),
        (X86_64, default, X86_64, "clone", &[0x11], ALLOW),
        (
            X86_64,
            default,
            X86_64,
            "clone",
            &[CLONE_NEWUSER | 0x11],
            EPERM,
        ),
        (
            X86_64,
            default,
            X86,
            "clone",
            &[CLONE_NEWUSER | 0x11],
            EPERM,
        ),
        (
            X86_64,
            admin,
            X86_64,
            "clone",
            &[CLONE_NEWUSER | 0x11],
            ALLOW,
        ),
        (X86_64, default, X86_64, "clone3", &[], ENOSYS),
        (X86_64, admin, X86_64, "clone3", &[], ALLOW),
        (X86_64, default, X86_64, "socket", &[2], ALLOW),
        (X86_64, default, X86_64, "socket", &[38], EPERM),
        (X86_64, default, X86_64, "socket", &[39], ALLOW),
        (X86_64, default, X86_64, "socket", &[40], EPERM),
        (X86_64, default, X86_64, "socket", &[1 << 32], ALLOW),
        (X86_64, default, X86_64, "personality", &[8], ALLOW),
        (X86_64, default, X86_64, "personality", &[9], EPERM),
        (
            X86_64,
            default,
            X86_64,
            "personality",
            &[0xffff_ffff],
            ALLOW,
        ),
        (X86_64, default, X86_64, "ptrace", &[], ALLOW),
        (X86_64, default, X86_64, "keyctl", &[], EPERM),
        (X86_64, default, X86_64, "io_uring_setup", &[], EPERM),
        (X86_64, default, X86_64, "modify_ldt", &[], ALLOW),
        (X86_64, default, X86_64, "arch_prctl", &[], ALLOW),
        (X86_64, default, X86_64, "chroot", &[], ALLOW),
        // Newer than the newest that the profile names (removexattrat, 466).
        (X86_64, default, X86_64, "file_getattr", &[], ENOSYS),
        (X86_64, default, X86, "listns", &[], ENOSYS),
        (Aarch64, default, Aarch64, "openat", &[], ALLOW),
        (Aarch64, default, Aarch64, "listns", &[], ENOSYS),
        (Aarch64, default, Arm, "set_tls", &[], ALLOW),
        (Aarch64, default, Arm, "usr26", &[], EPERM),
        (Aarch64, default, Arm, "listns", &[], ENOSYS),
        // An x86 program on ARM: not an architecture of this filter.
        (Aarch64, default, X86_64, "read", &[], 0),
    ] {
        let profile = docker(caps, native);
        let call = call(arch, name, args);
        let program = compile_for(&profile, native).unwrap();
        let what = format!("{name} {args:x?} on {arch:?}");
        assert_eq!(judge(&profile, native, &call), expected, "oracle: {what}");
        assert_eq!(run(&program, &call).0, expected, "{what}");
    }
}

#[test]
fn dockers_profile_holds_for_every_number() {
    for native in [Arch::X86_64, Arch::Aarch64] {
        let profile = docker(caps::DOCKER_DEFAULT, native);
        let program = compile_for(&profile, native).unwrap();
        check(&program);
        assert!(program.len() < 1500, "{} instructions", program.len());
        let mut longest = 0;
        // The oracle is slow, so each number meets one of the argument sets.
        let args = [[0; 6], [u64::MAX; 6], [39; 6]];
        let near = |base: u32| base..base + 20;
        let numbers = (0..560)
            .chain(table::X32_BIT..table::X32_BIT + 560)
            .chain(near(table::ARM_PRIVATE - 10))
            .chain(near(u32::MAX - 20));
        for (number, args) in numbers.zip(args.iter().cycle().copied()) {
            for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::Arm] {
                let arch = arch.audit();
                let call = Call { number, arch, args };
                let (answer, steps) = run(&program, &call);
                assert_eq!(answer, judge(&profile, native, &call), "{call:x?}");
                longest = longest.max(steps);
            }
        }
        assert!(
            longest < 40,
            "the longest path takes {longest} instructions"
        );
    }
}

#[test]
fn profile_errors_are_dockers() {
    for (json, expected) in [
        (
            "{",
            "decoding seccomp profile failed: EOF while parsing an object at line 1 column 1",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'",
        ),
        (
            r#"{"defaultAction":"NO"}"#,
            "string NO is not a valid action for seccomp",
        ),
    ] {
        let error = Profile::parse(json)
            .and_then(|profile| profile.evaluate(0, Arch::X86_64, KERNEL))
            .unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let empty = Profile::parse("{}")
        .unwrap()
        .evaluate(0, Arch::X86_64, KERNEL);
    assert!(empty.unwrap().is_none());
}

#[test]
fn kernel_versions_compare_by_number() {
    assert!(KernelVersion::parse("6.18.0-rc1").unwrap() > KernelVersion::parse("6.9").unwrap());
    assert_eq!(KernelVersion::parse("4.8"), Some(KernelVersion(4, 8)));
    assert_eq!(KernelVersion::parse("4"), None);
    let old = Profile::docker_default().unwrap();
    let old = old
        .evaluate(0, Arch::X86_64, KernelVersion(4, 7))
        .unwrap()
        .unwrap();
    let program = compile_for(&old, Arch::X86_64).unwrap();
    assert_eq!(run(&program, &call(Arch::X86_64, "ptrace", &[])).0, EPERM);
}

/// Values around which comparisons turn.
fn operand() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(1 << 32),
        Just((1 << 32) - 1),
        0..64_u64,
        any::<u64>(),
        any::<u32>().prop_map(|high| u64::from(high) << 32),
    ]
}

fn action() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_LOG",
        "SCMP_ACT_TRACE",
    ])
}

prop_compose! {
    fn argument()(
        index in 0..6_usize,
        value in operand(),
        second in operand(),
        op in prop::sample::select(vec!["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"]),
    ) -> serde_json::Value {
        serde_json::json!({
            "index": index, "value": value, "valueTwo": second, "op": format!("SCMP_CMP_{op}")
        })
    }
}

prop_compose! {
    fn rule()(
        // Few names, so that rules meet on one call.
        names in prop::collection::vec(0..TABLE.len() / 4, 1..12),
        action in action(),
        errno in prop::option::of(0..200_u32),
        args in prop_oneof![
            Just(Vec::new()),
            prop::collection::vec(argument(), 1..4),
        ],
    ) -> serde_json::Value {
        let names: Vec<&str> = names.iter().map(|&index| TABLE[index * 4].0).collect();
        serde_json::json!({"names": names, "action": action, "errnoRet": errno, "args": args})
    }
}

prop_compose! {
    fn profile()(
        default in action(),
        errno in prop::option::of(0..200_u32),
        archs in prop::sample::subsequence(
            vec!["X86_64", "X32", "X86", "AARCH64", "ARM", "RISCV64"], 0..=6),
        // Enough rules now and then for jumps beyond 255 instructions.
        rules in prop_oneof![
            prop::collection::vec(rule(), 0..12),
            prop::collection::vec(rule(), 60..100),
        ],
    ) -> String {
        let archs: Vec<String> = archs.iter().map(|arch| format!("SCMP_ARCH_{arch}")).collect();
        serde_json::json!({
            "defaultAction": default, "defaultErrnoRet": errno,
            "architectures": archs, "syscalls": rules,
        })
        .to_string()
    }
}

prop_compose! {
    fn random_call()(
        name in 0..TABLE.len(),
        arch in prop::sample::select(vec![Arch::X86_64, Arch::X32, Arch::X86, Arch::Aarch64, Arch::Arm]),
        strange_arch in prop::option::weighted(0.05, any::<u32>()),
        number in prop_oneof![
            3 => Just(None),
            1 => (0..600_u32).prop_map(Some),
            1 => (table::X32_BIT..table::X32_BIT + 600).prop_map(Some),
            1 => any::<u32>().prop_map(Some),
        ],
        args in prop::array::uniform6(operand()),
    ) -> Call {
        let named = super::number(TABLE[name / 4 * 4].0, arch).unwrap_or(0);
        Call { number: number.unwrap_or(named), arch: strange_arch.unwrap_or(arch.audit()), args }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn compiled_filters_mean_what_the_profile_says(
        json in profile(),
        calls in prop::collection::vec(random_call(), 200),
        native in prop::sample::select(vec![Arch::X86_64, Arch::Aarch64]),
    ) {
        let profile = Profile::parse(&json).unwrap().evaluate(0, native, KERNEL).unwrap().unwrap();
        match compile_for(&profile, native) {
            Ok(program) => {
                check(&program);
                for call in &calls {
                    prop_assert_eq!(run(&program, call).0, judge(&profile, native, call), "{:x?}", call);
                }
            }
            Err(Error::TooLong(length)) => prop_assert!(length > 4096),
            Err(error) => panic!("{error}"),
        }
    }
}
