//! The README's example is the one that is compiled in the documentation of the crate.

#[test]
fn the_example_of_the_readme_is_the_compiled_one() {
    let (readme, example) = (include_str!("../README.md"), include_str!("../docs/example.rs"));
    assert!(readme.contains(&format!("```rust\n{example}```")), "README.md does not hold docs/example.rs");
}
