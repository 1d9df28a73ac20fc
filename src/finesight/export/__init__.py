"""Finished models in forms that other tools open without finesight."""
