"""Physical benchmarks: each suite one file, one protocol, one way of running them all.

``registry`` names the suites without importing them; ``suite`` is what each of them is;
``running`` measures structure by structure, in parallel and resumably; ``writing`` turns rows
into JSON, Markdown, plots and a card.
"""
