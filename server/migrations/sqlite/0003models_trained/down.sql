DROP TABLE adoption;
DROP TABLE trained;
