"""protocols/plain"""
