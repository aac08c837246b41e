"""The map of the rooms. No code here.

`tasks.py` beside this folder assembles the tree. Each namespace has a module of thin tasks that
read like the slides of a talk: `test`, `build`, `release`, `acceptance`, `publish`; `workflow` has
what spans them. `stages` says what a task is here and executes the graph of them.

`settings` makes one frozen object of the env files (read strictly by `envfile`) and the process
environment. `errors` has the failures a user can act on.

`engine` is the machinery; it knows neither Invoke nor the application. In the order of the data:

- `run`: one run, what its stages share, its record and its end; holds all below
- `environments`: a compose project, from up to teardown; asks with
  `readiness`, judges with `reports`
- `images`: what is built, on which `base`, with which `buildsecrets`; `wheelhouse`: the artifact
- `source`: the commit; `checkout`: who we are on the engine, and who is at work here
- `roles`: which service plays which role, from the compose files
- `compose`: the argv of each command; `process`: the one door that runs them
- `api`: the one object that talks to the engine's API
- `console`: the one module that prints

Data flows one way: settings -> engine -> namespaces.
"""
