"""``coord demo``: the promises of the product, shown on real processes and checked by code.

A server process, worker processes that share nothing but the server and a file, ``kill -9``, ``SIGSTOP`` and
``SIGCONT``: what is told is what happens, and every claim is an expression that was evaluated.

* ``story.py`` has the acts, in the order in which they are told.
* ``actors.py`` is the program that each child process runs; it talks to the story in lines of JSON.
* ``storage.py`` is the file that takes writes under rising tokens only.
* ``processes.py`` starts the children and sees to it that none is left, whatever happens.
* ``narrator.py`` prints, and stops the story at the first claim that does not hold.
"""
