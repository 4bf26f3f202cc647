# kas & agentk. "make" alone says what there is.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-print-directory

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/kas-agentk/kas/internal/version.Version=$(VERSION)
TOOLS   := $(CURDIR)/.build/bin
# A cache of this checkout's own: golangci-lint keeps absolute paths in it, and what
# another checkout of the same code left there escapes the path rules of this one.
LINT    := GOLANGCI_LINT_CACHE=$(CURDIR)/.build/golangci-lint $(TOOLS)/golangci-lint
# What "buf breaking" compares with: the newest release, else the newest commit.
BUF_BASE ?= $(shell git describe --tags --abbrev=0 2>/dev/null || echo HEAD)
# 2 cores: the race detector's programs are hungry.
TEST_TIMEOUT ?= 20m
# How many packages are tested at a time. Those of e2e come first, because they take
# longest, and mostly wait: one after the other they would leave the cores idle.
TEST_PACKAGES ?= 4

.PHONY: help
help: ## Say what there is
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: go
go:
	@command -v $(GO) >/dev/null || { echo "Go is not installed, or not in PATH: see https://go.dev/doc/install (go.mod names the version)" >&2; exit 1; }

.PHONY: build
build: go ## Build kas, agentk, ror and kasctl into bin/
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/kas ./cmd/agentk ./cmd/ror ./cmd/kasctl

.PHONY: demo
demo: go ## Set up everything and run the main job until Ctrl-C (KUBECONFIG=... for a cluster of your own, TRACING=URL for traces)
	@mkdir -p .build/bin && $(GO) build -o .build/bin/sandbox ./cmd/sandbox
	@exec .build/bin/sandbox demo --end-with-parent --kubeconfig="$(if $(filter command line,$(origin KUBECONFIG)),$(KUBECONFIG))" \
		--tracing-otlp-endpoint="$(TRACING)"

.PHONY: demo-clean
demo-clean: go ## Remove the demo's state
	@$(GO) run ./cmd/sandbox demo-clean

.PHONY: sandbox
sandbox: go ## Build the real parts that demo and tests run against (once; minutes)
	@$(GO) run ./cmd/sandbox build

.PHONY: test
test: sandbox ## Run all tests: units and end to end, race detector on (TESTFLAGS=-count=1: also those that passed before)
	$(GO) test -race -ldflags '-s -w' -timeout $(TEST_TIMEOUT) -p $(TEST_PACKAGES) $(TESTFLAGS) ./e2e/... $$($(GO) list ./... | grep -v '/e2e')

.PHONY: test-unit
test-unit: go ## Run the tests that need no control plane
	$(GO) test -race -timeout $(TEST_TIMEOUT) $$($(GO) list ./... | grep -v -e '/e2e' -e '/sandbox')

.PHONY: check
check: go lint generated tidy bench-build ## Lint, and check that generated files and go.mod are fresh

.PHONY: lint
lint: $(TOOLS)/golangci-lint $(TOOLS)/buf ## Lint Go and protobuf
	$(LINT) run ./...
	$(TOOLS)/buf lint
	@if git rev-parse -q --verify '$(BUF_BASE)^{commit}' >/dev/null; then \
		echo "$(TOOLS)/buf breaking --against .git#ref=$(BUF_BASE)"; \
		$(TOOLS)/buf breaking --against ".git#ref=$$(git rev-parse '$(BUF_BASE)^{commit}')"; \
	else echo "buf breaking: no earlier commit to compare with"; fi

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint $(TOOLS)/buf ## Format Go and protobuf
	$(LINT) fmt ./...
	$(TOOLS)/buf format -w

.PHONY: generate
generate: $(TOOLS)/buf ## Generate Go from the .proto files
	$(TOOLS)/buf generate api

.PHONY: generated
generated: $(TOOLS)/buf
	@rm -rf .build/generated && mkdir -p .build/generated
	@$(TOOLS)/buf generate api --template buf.gen.yaml -o .build/generated
	@for f in $$(cd .build/generated/api && find . -name '*.go'); do \
		diff -u "api/$$f" ".build/generated/api/$$f" || { echo "api/$$f is stale: run \"make generate\"" >&2; exit 1; }; done

.PHONY: tidy
tidy:
	@$(GO) mod tidy -diff || { echo "go.mod is stale: run \"go mod tidy\"" >&2; exit 1; }

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (60s)
	@for p in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | sed 's/^func //'); do \
			echo "== $$p $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(or $(FUZZTIME),60s) -fuzzminimizetime 5s $$p || exit 1; done; done

.PHONY: bench
bench: ## Compare the engine with others and with the API server's limit (half an hour; BENCH="--quick": minutes)
	@mkdir -p .build/bin
	@cd bench && $(GO) build -o ../.build/bin/bench .
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o .build/bin/agentk ./cmd/agentk
	@.build/bin/bench --agentk=.build/bin/agentk --out=bench $(BENCH)

.PHONY: bench-build
bench-build: $(TOOLS)/golangci-lint ## Lint, test and build the benchmarks without running them
	@cd bench && $(GO) mod tidy -diff && $(LINT) run -c ../.golangci.yml ./... && $(GO) test ./... && $(GO) build -o ../.build/bin/bench .

.PHONY: bench-go
bench-go: ## Run the benchmarks that stand beside the code
	$(GO) test -run '^$$' -bench . -benchmem $$(grep -rl --include='*_test.go' '^func Benchmark' . | xargs -n1 dirname | sort -u)

.PHONY: clean
clean: ## Remove what build and check made here
	rm -rf bin .build

# Tools, pinned in tools/go.mod.
$(TOOLS)/golangci-lint $(TOOLS)/buf &: tools/go.mod tools/go.sum
	@echo "building the tools pinned in tools/go.mod (2-3 minutes the first time)"
	@mkdir -p $(TOOLS)
	cd tools && GOBIN=$(TOOLS) $(GO) install tool
	@touch $(TOOLS)/golangci-lint $(TOOLS)/buf
