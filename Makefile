# One word each; the work is done by xtask (`cargo run -p xtask -- --help`), which sets up what is missing first.
XTASK := cargo run --quiet --locked --package xtask --

.PHONY: help setup demo dev test bench ci
help:
	@echo "make demo    the whole story once: a token, a vault, shares, a service, a refusal, the audit trail"
	@echo "make dev     a development server, unsealed, with the environment to paste"
	@echo "make test    all tests"
	@echo "make bench   figures, beside a bare TLS echo"
	@echo "make ci      everything that CI checks"
	@echo "make setup   only install what is missing"

setup demo dev test bench ci:
	@$(XTASK) $@
