"""`python -m finesight` is the command `finesight`: what `torchrun -m finesight` starts."""

from finesight.cli.main import main

if __name__ == "__main__":
    main()
