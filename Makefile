# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Shortcuts; the work is done by scripts that can be called by themselves too.
.DEFAULT_GOAL := help
.PHONY: help demo test unit lint sanity molecule docs bench security fleet-up fleet-down setup clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## three builders and a client out of nothing: provisioned, then real builds, and a table of what was built where
	@tests/demo/run

test: ## everything that CI runs
	@tests/run

unit: ## unit tests, with the oldest and the newest ansible-core
	@tests/run unit

lint: ## linters and documentation checks
	@tests/run lint

sanity: ## ansible-test sanity, with the oldest and the newest ansible-core
	@tests/run sanity

molecule: ## Molecule scenarios on the test fleet (SCENARIO="name..." for some of them)
	@extensions/molecule/run $(SCENARIO)

docs: ## the documentation as a site, in .build/site
	@tools/docs

bench: ## measurements, as JSON
	@tests/bench/run

security: ## what a login may do, ssh-audit, fuzzing, private keys: a table of figures, and whether each is reached
	@tests/security/run

fleet-up: ## start the test fleet (HOSTS="builder1:trixie client1:bookworm:bare ..." for others than the usual five)
	@tests/fleet/fleet up $(HOSTS)

fleet-down: ## remove the test fleet
	@tests/fleet/fleet down

setup: ## make the virtual environments in .build
	@tools/setup

clean: ## remove .build with the virtual environments and logs; the test fleet's images stay
	rm -rf .build .ansible tests/output
