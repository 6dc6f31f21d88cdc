#!/bin/sh
# Put a Kafka server for the tests under .cache/kafka-VERSION: its jars by Maven, and an archive of
# loaded classes that halves its start. What is there is kept. Usage: tools/kafka.sh
set -eu
cd "$(dirname "$0")/.."

version=4.3.1
home=$PWD/.cache/kafka-$version
[ -f "$home/ready" ] && exit

command -v java >/dev/null || tools/apt.sh "the tests of Kafka need Java" default-jre-headless
command -v mvn >/dev/null || tools/apt.sh "the jars of Kafka come by Maven" maven

echo "murmur: getting Kafka $version by Maven into .cache (a minute, once)"
rm -rf "$home"
mkdir -p "$home"
cat >"$home/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>murmur</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>$version</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
POM
mvn -q -B -f "$home/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$home/libs" </dev/null || {
    echo "murmur: Maven could not get Kafka $version; mend the above, then try again: make brokers" >&2
    exit 1
}
# Without the archive Kafka runs as well, only slower to start: that it cannot be made is no error.
.venv/bin/python -m tests.brokers.kafka_server "$home" || true
touch "$home/ready"
