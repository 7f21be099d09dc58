//! What a page shows of an example is in the example, which is compiled and tested.

use crate::page;

#[test]
fn what_the_guide_shows_of_the_pool_is_in_the_example() {
    let example = page::text("client/examples/postgres_pool/pool.rs");
    let text = page::text("docs/guides/service-author.md");
    let shown: Vec<_> =
        page::fences(&text).into_iter().filter(|fence| fence.info.trim() == "rust,ignore").collect();
    assert!(shown.len() >= 2, "the guide shows nothing of the pool");
    for block in shown {
        let block = block.lines.join("\n");
        assert!(example.contains(&block), "the example has no longer:\n{block}");
    }
}
