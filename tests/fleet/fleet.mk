# The tests on a real Ray cluster, in an environment as deploy/ray/Containerfile makes it: without truss.
.PHONY: test-fleet

FLEET     := .venv-fleet
FLEET_PIP := $(FLEET)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile

test-fleet: $(FLEET)/.installed ## the tests on a Ray cluster of three nodes on this machine
	@$(FLEET)/bin/python -m pytest tests/fleet -W default -W ignore::DeprecationWarning --timeout 400

# Serve refuses the watchfiles that truss pins.
$(FLEET)/.installed: pyproject.toml constraints.txt
	@python=$$(PYTHON='$(PYTHON)' scripts/find-python) && "$$python" -m venv $(FLEET)
	@echo "-- installing torch, Ray and what the model needs in $(FLEET)"
	@$(FLEET_PIP) torch==2.13.0
	@grep -v '^watchfiles==' constraints.txt > $(FLEET)/constraints.txt
	@$(FLEET_PIP) -c $(FLEET)/constraints.txt -e '.[model,ray,fleet-tests]'
	@touch $@
