"""Capsules: a file for each task that fails, from which the task can be run again.

    records.py   what a capsule says of the failure: the manifest
    writing.py   leaves one, in the process where the failure is known
    pieces.py    the values that the task needs: which are kept, what is said of the others
    facts.py     what of this process may have to do with it: versions, variables, random numbers
    secrets.py   what must not be in it
    tails.py     what the process wrote last
    reading.py   opens one

A capsule is a zip file that a person can open:

    manifest.json             what failed, where, and what it needs
    traceback.txt  log.txt    as text; source.py if the function's source is found
    code.pkl                  the function, or the actor's class
    args.pkl  args-N.pkl      the call's arguments; the values of references among them
    init.pkl  init-N.pkl      the same of the actor's constructor
    ref-ID.pkl                values of references that lie deeper inside
    random.pkl                the states of random generators when the call began

Pickles are as weft._serialize packs them. The manifest and the texts can be read without running
any code; a pickle cannot.
"""
