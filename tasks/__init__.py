"""The map of the rooms. No code here.

`tasks.py` beside this folder assembles the tree. Each namespace has a module of thin tasks that
read like the slides of a talk: `test`, `build`, `release`, `acceptance`, `publish`; `workflow` has
what spans them. `stages` says what a task is here and executes the graph of them.

`settings` makes one frozen object of the env files (read strictly by `envfile`) and the process
environment. `errors` has the failures a user can act on.

`engine` is the machinery; it knows neither Invoke nor the application.

What is going on:
- `run`: one run, what its stages share, its record and its end; holds all below
- `plan`: which stages run and which are spared, from `inputs`: what results depend on
- `console`: the one module that prints

Making and testing a release:
- `images`: what is built, on which `base`, with which `buildsecrets`; `wheelhouse`: the artifact
- `environments`: a compose project, from up to teardown; asks with `readiness`, judges with
  `reports`
- `source`: the commit; `checkout`: who we are on the engine, and who is at work here
- `roles`: which service plays which role, from the compose files

Proving and publishing it:
- `receipts`: what a receipt says, and who signed it; `witness` writes them, `shelf` keeps them
- `verification`: the policy that receipts must meet
- `publishing`: image, wheels and evidence (with the `sbom`) on their way, by `registry` (which
  asks for `credentials`) and `index`, with one deadline for all `retries`

The doors:
- `compose`: the argv of each command; `process`: the one door that runs them; `versions`: whether
  they suffice
- `api`: the one object that talks to the engine's API
- `waits`: when a run waited for the two, and was not at work itself
- `tools`: all of these, handed from room to room as one thing

Data flows one way: settings -> engine -> namespaces.
"""
