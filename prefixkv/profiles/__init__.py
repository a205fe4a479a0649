"""Layer profiles and configurations: measured once, stored as files, found again."""
