"""Runtime environments: what a task's worker has besides the driver's code.

    driver    spec.py checks and merges what users write;
              working_dir.py turns directories into the names of their contents
    builder   build.py, a process that the daemon forks, makes what is named:
              trees.py directories, packages.py installed packages
    worker    activation.py enters what was built, before anything else runs there

All three share a cache of this user's (cache.py). What a process's own tasks inherit is in
inheritance.py.
"""
