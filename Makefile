# `make demo` shows the system work, `make test` tests it.
.PHONY: test
test:
	cargo test --workspace --locked
