"""Runs code that nobody trusts, and lets nothing out of it but values. Standard library only; Linux only.

`judge` is the way in: it holds the verdict and the expected values. `jail` starts and ends processes. `server`,
`lockdown`, `solver`, `tester` and `script` run on the other side, in interpreters of their own.
"""
