"""Fakes and witnesses shared by the tests: a fake provider, a scripted model, an effect log."""
