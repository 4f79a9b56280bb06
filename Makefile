# Two commands matter: `make demo` and `make test`. Everything installs itself into .venv.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# The first interpreter that the server and the builders run on.
PYTHON := $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' 2>/dev/null \
	&& echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-full test-gpu tensorrt-table fusion-table fine-tuning-table explanation ensemble-table imbalance-table pretraining-table sdk-table capacity-table curves profile serving-table bench bench-reduced bench-smoke dashboard sync-client check audit format clean platform sbom

help:  ## show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## train, build, serve and ask the demo app (real Triton server)
	@$(BIN)/tritium demo

serve: $(READY)  ## keep the demo app serving on 127.0.0.1:8001 (Ctrl-C drains and stops)
	@$(BIN)/tritium train recipes/openmoji.toml --reuse
	@$(BIN)/tritium build bundles/openmoji
	@$(BIN)/tritium serve --app openmoji

test: $(READY)  ## the whole suite, against the real tritonserver
	@$(BIN)/python -m pytest -n 2 --dist loadscope -m "not gpu and not full"

test-full: $(READY)  ## soaks and large counts at full length; its log is committed
	@mkdir -p benchmarks/results/logs
	@TRITIUM_TEST_FULL=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m "not gpu" 2>&1 | sed "s|$(CURDIR)|.|g" \
		| tee benchmarks/results/logs/test-full.log; exit $${PIPESTATUS[0]}

test-gpu: $(READY)  ## on a machine with an NVIDIA GPU: build, compare and serve TensorRT plans
	@$(BIN)/python -m pytest -rs -m gpu tests/gpu
	@TRITIUM_E2E_TARGET=tensorrt $(BIN)/python -m pytest -rs -m "not full" tests/e2e

tensorrt-table: $(READY)  ## what each precision costs, without a GPU: benchmarks/results/tensorrt.md
	@$(BIN)/tritium train recipes/openmoji.toml --reuse
	@$(BIN)/python -m tritium_benchmarks.tensorrt_table bundles/openmoji benchmarks/results

fusion-table: $(READY)  ## fusion strategies on two data sets, five seeds: docs/fusion.md
	@tools/install-openclipart.sh
	@$(BIN)/python -m tritium_benchmarks.fusion_table recipes/openmoji.toml recipes/openclipart.toml --results benchmarks/results --page docs/fusion.md --times

explanation: $(READY)  ## why the demo app answers as it does: docs/images/explanation.png
	@$(BIN)/tritium train recipes/openmoji.toml --reuse
	@$(BIN)/python tools/explain_demo.py bundles/openmoji docs/images/explanation.png

ensemble-table: $(READY)  ## ensembles beside single heads on the demo data, three seeds: docs/ensembles.md
	@$(BIN)/python -m tritium_benchmarks.ensemble_table recipes/openmoji.toml benchmarks/results --page docs/ensembles.md

imbalance-table: $(READY)  ## what helps rare labels, and temperatures: docs/class-imbalance.md
	@$(BIN)/python -m tritium_benchmarks.imbalance_table recipes/openmoji.toml benchmarks/results --page docs/class-imbalance.md

pretraining-table: $(READY)  ## whether adapted encoders help on the demo data: docs/pretraining.md
	@rm -rf encoders/openmoji_masked_language encoders/openmoji_contrastive
	@$(BIN)/python -m tritium_benchmarks.pretraining_table recipes/openmoji.toml benchmarks/results \
		--pretraining recipes/pretraining/openmoji_contrastive.toml \
		--pretraining recipes/pretraining/openmoji_masked_language.toml --page docs/pretraining.md

fine-tuning-table: $(READY)  ## encoders frozen, last layers, LoRA on the demo data: docs/fine-tuning.md
	@$(BIN)/python -m tritium_benchmarks.fine_tuning_table recipes/openmoji.toml benchmarks/results --page docs/fine-tuning.md

# Repositories of their own, made anew: in one that is in use, what was just built is not live yet.
MEASURED := .cache/bench
REDUCED := .cache/reduced
BENCH := tritium bench run openmoji --repository $(MEASURED)
BENCH_READY = $(BIN)/tritium train recipes/openmoji.toml --reuse && rm -rf $(MEASURED) && \
	$(BIN)/tritium build bundles/openmoji --repository $(MEASURED) && $(BIN)/tritium bench install

bench: $(READY)  ## Tritium beside what you would otherwise use, about a quarter of an hour: benchmarks/results/bench
	@$(BENCH_READY)
	@$(BIN)/$(BENCH) --against all --limit --seconds 3 --repeats 4 --out benchmarks/results/bench
	@$(BIN)/python -m tritium_benchmarks.report.pages benchmarks/results/bench README.md docs/benchmarks.md

bench-reduced: $(READY)  ## the same for the fastest precision that passes its gates here: docs/precision.md
	@$(BIN)/tritium train recipes/openmoji.toml --reuse && rm -rf $(REDUCED)
	@$(BIN)/tritium build bundles/openmoji --precision auto --repository $(REDUCED)
	@# Neither the limit nor the twin computes in int8.
	@more=; grep -q '^  "precision": "int8"' $(REDUCED)/openmoji_classify/1/release.json \
		|| more="--limit --against litserve-tuned"; \
	$(BIN)/tritium bench run openmoji --repository $(REDUCED) --seconds 3 --repeats 4 \
		--no-perf-analyzer --against fastapi-pytorch --against litserve-onnxruntime $$more \
		--out benchmarks/results/reduced
	@$(BIN)/python -m tritium_benchmarks.report.pages benchmarks/results/reduced docs/precision.md --places reduced

bench-smoke: $(READY)  ## the same in small, under a minute, for its shape and not for its figures
	@$(BENCH_READY)
	@$(BIN)/$(BENCH) --against fastapi-onnxruntime --workload single --seconds 1 --repeats 2 \
		--held-out 20 --out bench-results/smoke

curves: $(READY)  ## how cost grows with load, batches, pictures, texts and cores: docs/performance.md
	@$(BENCH_READY)
	@$(BIN)/tritium bench curves openmoji --repository $(MEASURED) --repeats 2 --out benchmarks/results/curves
	@$(BIN)/python -m tritium_benchmarks.curves.show benchmarks/results/curves docs/performance.md

profile: $(READY)  ## where processor time goes under load: benchmarks/results/profile.md
	@$(BENCH_READY)
	@$(BIN)/python -m tritium_benchmarks.profile_table openmoji benchmarks/results --repository $(MEASURED)

serving-table: $(READY)  ## tails, overload, cache, start and memory: benchmarks/results/serving.md
	@$(BENCH_READY)
	@$(BIN)/python -m tritium_benchmarks.serving_table openmoji benchmarks/results --repository $(MEASURED) --page docs/performance.md

capacity-table: $(READY)  ## the fleet simulator beside real servers, and a plan: docs/capacity-planning.md
	@$(BENCH_READY)
	@$(BIN)/python -m tritium_benchmarks.capacity.table benchmarks/results --curve benchmarks/results/curves \
		--repository $(MEASURED) --page docs/capacity-planning.md

sdk-table: $(READY)  ## what the SDK costs, and what callers see when something fails: benchmarks/results/sdk_*.md
	@$(BIN)/python -m tritium_benchmarks.sdk.overhead --out benchmarks/results
	@$(BIN)/python -m tritium_benchmarks.sdk.faults --out benchmarks/results
	@$(BIN)/python -m tritium_benchmarks.sdk.envoy_hop --out benchmarks/results
	@$(BIN)/tritium train recipes/openmoji.toml --reuse
	@$(BIN)/python -m tritium_benchmarks.sdk.shared_memory bundles/openmoji --out benchmarks/results

sbom: $(READY)  ## what is installed here, as CycloneDX: sbom/tritium.cdx.json (of the image: docs/containers.md)
	@mkdir -p sbom
	@$(BIN)/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --mc-type application \
		--of JSON -o sbom/tritium.cdx.json $(BIN)/python
	@echo "sbom/tritium.cdx.json"

dashboard: $(READY)  ## write Grafana's dashboard, deploy/monitoring/grafana, from tools/write_dashboard.py
	@$(BIN)/python tools/write_dashboard.py

sync-client: $(READY)  ## write the SDK's sync client from its async source
	@$(BIN)/python tools/generate_sync.py

check: $(READY)  ## format, lint, security lint, types, dependency direction
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/bandit -q -c pyproject.toml -r client builders deploy benchmarks tools
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_dependencies.py

audit: $(READY)  ## known vulnerabilities of what constraints.txt pins; needs the network
	@PYTHON="$(BIN)/python" tools/audit.sh

format: $(READY)  ## format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:  ## remove what was built; the .venv stays
	rm -rf bundles model_repository/*_* model_repository/.tritium .pytest_cache .mypy_cache .ruff_cache

platform:
	@test "$$(uname -s) $$(uname -m)" = "Linux x86_64" -a -n "$(PYTHON)" || { \
		echo "Tritium's server and builders need Linux x86-64 and Python 3.11 or 3.12;" \
			"this is $$(uname -s) $$(uname -m), Python $$(python3 -V 2>&1 | cut -d' ' -f2)." \
			"The SDK alone (pip install tritium) runs on Python 3.10 to 3.13." >&2; exit 1; }

$(READY): pyproject.toml constraints.txt | platform
	@echo "installing into $(VENV) (once; downloads about 1.4 GB)"
	@start=$$(date +%s); \
	$(PYTHON) -m venv $(VENV) && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' && \
	touch $@ && echo "install: $$(( $$(date +%s) - start )) s"

SHELL := /bin/bash
