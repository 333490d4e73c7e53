//! The demo where there is no Vault.

#![allow(clippy::unwrap_used, missing_docs)]

use std::process::Command;

#[test]
fn without_vault_the_demo_uses_the_local_ca_says_so_and_proves_the_rest() {
    let output = Command::new(env!("CARGO_BIN_EXE_goliath-demo")).args(["--issuer", "local"]).output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("a local CA in a file issues the certificates instead"), "{said}");
    assert!(said.contains("vouched for by the local CA"), "{said}");
    assert!(said.contains("19 proofs in "), "{said}");
}
