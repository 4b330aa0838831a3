"""Declarations of five methods with stand-ins for their networks: do the contracts carry them?"""
