# The tests that drive a browser. They need Debian's chromium, which is installed here where it is missing, and Node.js.
.PHONY: test-browser

BROWSER_STAMP := $(VENV)/.installed-browser
NODE_STAMP    := tests/browser/node_modules/.package-lock.json

$(BROWSER_STAMP): $(DEV)
	@echo "-- installing the browser driver"
	@$(PIP) -c constraints.txt -e '.[browser]'
	@touch $(BROWSER_STAMP)

$(NODE_STAMP): tests/browser/package.json tests/browser/package-lock.json
	@echo "-- installing what the browser tests need from npm"
	@cd tests/browser && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $(NODE_STAMP)

test-browser: $(BROWSER_STAMP) $(NODE_STAMP) ## the page's tests in a headless Chromium
	@tests/browser/find-chromium
	@$(BIN)/python -m pytest -m browser tests/browser --numprocesses 2 --dist loadfile
