# Every target only calls dev.py, so that a machine without make has them all: python3 dev.py run
PYTHON ?= python3
TARGETS = run test lint check bench simulate oracle faults soak lock venv clean help

.DEFAULT_GOAL := help
.PHONY: $(TARGETS)

$(TARGETS):
	@$(PYTHON) dev.py $@ $(ARGS)
