"""What runs inside a sandbox: plain Python files that import the standard library and each other alone.

`checker` runs the tests of a problem, `program` the code of a sample, each in its own process; they talk in `frames`.
"""
